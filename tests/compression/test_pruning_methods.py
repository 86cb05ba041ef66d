"""What each pruning method computes, against loops; and the budgets in which it is itself."""

import copy
import math
from statistics import mean

import pytest
import torch
from support.refusals import refused
from support.rows import samples
from torch import nn

from isthmus import fit
from isthmus.compression import LearnedScores, Magnitude, RandomMask, Rewiring, prune, pruners
from isthmus.compression.pruning import job, rewiring
from isthmus.compression.pruning.job import PruningJob
from isthmus.compression.pruning.mask import held_in, masked
from isthmus.compression.pruning.random_mask import rescale
from isthmus.compression.pruning.rewiring import rewired
from isthmus.compression.pruning.units import WeightUnits, largest
from isthmus.runs.processes import Ranks
from isthmus.training import channel_lasso, cross_entropy
from isthmus.training.schedules import constant
from isthmus.training.state import Diverged

BUDGET = {"lr": 0.05, "batch_size": 20, "precision": "fp32"}
EPOCH = 4
"""Steps of such a batch in one pass over the samples."""
TRAINING = [
    *(Magnitude(dense=0.5), Magnitude(dense=0.9), LearnedScores(), LearnedScores(share=0.2)),
    *(Rewiring(), Rewiring(start="magnitude", dense=0.5)),
]


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    net = convolutional()
    fit(net, samples(), steps=40, **BUDGET)
    return net


@pytest.fixture
def faded(trained):
    """A network whose last layer, and whose first channels, are smaller than all others."""
    net = copy.deepcopy(trained)
    with torch.no_grad():
        net[7].weight *= 1e-6
        net[0].weight *= 1e-6
    return net


def masks_of(model):
    return {name: held.mask.mask.clone() for name, held in held_in(model).items()}


def kept_of(small):
    return [layer["kept"] for layer in small.record["layers"].values()]


@pytest.mark.parametrize("name", [name for name in pruners() if name != "random"])
def test_a_method_of_the_table_builds_on_the_trained_weights(name, trained):
    still = {**BUDGET, "lr": 1e-9}
    small = prune(trained, samples(), 0.3, method=pruners()[name], steps=12, **still)
    masks, start = masks_of(small.model), masks_of(prune(trained, samples(), 0.3).model)
    common = sum(int((masks[name] & start[name]).sum()) for name in masks)
    assert common > 0.6 * small.record["kept"]
    whole = dict(trained.named_parameters())
    for name, held in held_in(small.model).items():
        stays = masks[name] & start[name]
        torch.testing.assert_close(held.original[stays], whole[name][stays])


# ---- budgets


@pytest.mark.parametrize(
    ("steps", "moves"), [(3, 2), (4, 1), (5, 1), (7, 1), (8, 1), (11, 1), (12, 2), (15, 2), (24, 5)]
)
def test_connections_move_after_every_epoch_but_the_last_and_once_in_a_short_budget(
    steps, moves, trained, monkeypatch
):
    rates = []

    def spied(on, sizes, momenta, rate):
        rates.append(rate)
        return rewired(on, sizes, momenta, rate)

    monkeypatch.setattr(rewiring, "rewired", spied)
    method = Rewiring(start="magnitude", rate=0.4)
    small = prune(trained, samples(), 0.3, method=method, steps=steps, **BUDGET)
    period = EPOCH if steps >= 2 * EPOCH else steps // 2
    spent = [period * (move + 1) / steps for move in range(moves)]
    cosine = [(1 + math.cos(math.pi * share)) / 2 for share in spent]
    assert rates == pytest.approx([0.4 * (0.01 + 0.99 * factor) for factor in cosine])
    start = masks_of(prune(trained, samples(), 0.3).model)
    assert any(not torch.equal(mask, start[key]) for key, mask in masks_of(small.model).items())


def test_an_epoch_is_one_pass_of_all_ranks_together(trained, monkeypatch):
    budget = job.Training(steps=24, lr=0.1, batch_size=20)
    run = PruningJob(trained, samples(), WeightUnits(copy.deepcopy(trained)), 9, None, budget)
    assert run.epoch == EPOCH
    monkeypatch.setattr(job, "ranks", lambda: Ranks(0, 2, 0))
    assert run.epoch == EPOCH / 2


@pytest.mark.parametrize("method", TRAINING, ids=repr)
def test_a_method_is_refused_where_a_part_of_it_would_have_no_steps(method, trained, monkeypatch):
    data, least = samples(), method.least_steps
    refused(lambda: prune(trained, data, 0.3, method=method), "no budget", type(method).__name__)
    fewer = {**BUDGET, "steps": least - 1}
    refused(lambda: prune(trained, data, 0.3, method=method, **fewer), f"{least} steps or more")
    parts = []

    def spied(*args, training, progress, **options):
        parts.append((progress, training.steps))
        return fit(*args, training=training, progress=progress, **options)

    monkeypatch.setattr(job, "fit", spied)
    prune(trained, data, 0.3, method=method, steps=least, **BUDGET)
    before = getattr(method, "share", getattr(method, "dense", 0))
    assert len(parts) == 1 + bool(before) and sum(steps for _, steps in parts) == least


@pytest.mark.parametrize("method", [Magnitude(), RandomMask()], ids=repr)
def test_a_method_that_chooses_without_training_needs_no_budget(method, trained):
    assert method.least_steps == 0
    assert prune(trained, samples(), 0.3, method=method).record["gradients"] == 0


# ---- what stays


@pytest.mark.parametrize("structure", ["weights", "channels"])
@pytest.mark.parametrize("name", pruners())
def test_something_stays_in_every_layer(name, structure, faded):
    method, data = pruners()[name], samples()
    if structure == "channels" and isinstance(method, LearnedScores | Rewiring):
        return  # which are for single weights alone
    units = prune(faded, data, 1.0, structure).record
    layers, total = len(units["layers"]), units["units"]
    small = prune(faded, data, layers / total, structure, method=method, steps=12, **BUDGET)
    assert kept_of(small) == [1] * layers
    small = prune(faded, data, 0.3, structure, method=method, steps=12, **BUDGET)
    assert min(kept_of(small)) >= 1 and sum(kept_of(small)) == round(0.3 * total)


def test_the_largest_are_the_best_of_each_layer_and_then_of_all():
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: scale * torch.rand(size, generator=generator)
        for name, scale, size in (("a", 1.0, 30), ("b", 1e-3, 5), ("c", 0.5, 20))
    }
    for target in (3, 4, 20, 55):
        best = {(name, int(values.argmax())) for name, values in scores.items()}
        places = [(name, i) for name, values in scores.items() for i in range(len(values))]
        places.sort(key=lambda place: (place in best, float(scores[place[0]][place[1]])))
        expected = set(places[-target:])
        on = largest(scores, target)
        assert {(n, i) for n, units in on.items() for i in units.nonzero()[:, 0].tolist()} == (
            expected
        )


def test_a_choice_that_empties_a_layer_is_refused(trained):
    units = WeightUnits(copy.deepcopy(trained))
    on = {name: torch.ones(size, dtype=torch.bool) for name, size in units.counts.items()}
    on["2.weight"][:] = False
    refused(lambda: units.keep(on), "layer 2.weight", "keep_largest")


# ---- formulas


def test_scores_get_the_gradient_of_a_factor_on_their_weights():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, bias=False), torch.randn(5, 6)
    weight = layer.weight.detach().clone()
    held = masked(layer, "weight")
    held.mask.mask[:, ::2] = False
    held.mask.scores = nn.Parameter(torch.rand(4, 6))
    layer(x).square().sum().backward()
    factors = held.mask.mask.float().requires_grad_()
    (x @ (factors * weight).T).square().sum().backward()
    torch.testing.assert_close(held.mask.scores.grad, factors.grad)
    assert held.original.grad is None


def test_momentum_sums_gradients_off_the_mask_too():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    held = masked(layer, "weight")
    held.keep(torch.rand(4, 6) < 0.5)
    held.mask.momentum = torch.zeros(4, 6)
    expected = torch.zeros(4, 6)
    plain = held.original.detach().clone().requires_grad_()
    for x in torch.randn(3, 5, 6):
        held.original.grad = None
        layer(x).square().sum().backward()
        held.gather(0.9)
        expected = 0.9 * expected + torch.autograd.grad((x @ plain.T).square().sum(), plain)[0]
    torch.testing.assert_close(held.mask.momentum, expected)


def descended(most, momentum):
    """How a masked weight and its bias change in one step of plain descent at a rate of 1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    held = masked(net[1], "weight")
    held.keep(torch.rand(3, 36) < 0.2)
    if momentum:
        held.mask.momentum = torch.zeros(3, 36)
    before = [p.detach().clone() for p in net.parameters()]
    options = {"momentum": 0.0, "clip": most, "schedule": constant, "precision": "fp32"}
    fit(net, samples(), after_step=lambda _: held.project(), steps=1, lr=1.0, **options)
    pairs = zip(net.parameters(), before, strict=True)
    return torch.cat([(after.detach() - start).flatten() for after, start in pairs])


@pytest.mark.parametrize("most", [1e-3, 1e3])
def test_only_weights_that_move_count_in_the_norm_that_is_clipped(most):
    change = descended(most, momentum=True)
    torch.testing.assert_close(change, descended(most, momentum=False))
    free = float(descended(1e6, momentum=False).norm())
    assert float(change.norm()) == pytest.approx(min(most, free), rel=1e-4)


def test_which_connections_are_removed_and_which_regrow():
    """Against loops: each layer removes its smallest, and regrows where the momentum is largest."""
    generator = torch.Generator().manual_seed(1)
    on, sizes, momenta = {}, {}, {}
    for name, units, scale in (("a", 40, 1.0), ("b", 25, 6.0), ("c", 7, 0.5)):
        on[name] = torch.rand(units, generator=generator) < 0.5
        sizes[name] = torch.rand(units, generator=generator) * on[name]
        momenta[name] = scale * torch.rand(units, generator=generator)
    after = rewired(on, sizes, momenta, 0.3)
    removed, kept = 0, {}
    for name, units in on.items():
        places = [i for i in range(len(units)) if units[i]]
        places.sort(key=lambda i: float(sizes[name][i]))
        drop = math.ceil(0.3 * len(places))
        kept[name], removed = places[drop:], removed + drop
    shares = {name: mean(momenta[name][units].tolist()) for name, units in on.items()}
    for name, units in after.items():
        grown = int(units.sum()) - len(kept[name])
        wanted = removed * shares[name] / sum(shares.values())
        free = [i for i in range(len(units)) if i not in kept[name]]
        assert grown == len(free) or abs(grown - wanted) < 1 or len(free) < wanted
        free.sort(key=lambda i: -float(momenta[name][i]))
        assert units.nonzero()[:, 0].tolist() == sorted(kept[name] + free[:grown])


def test_a_random_mask_leaves_the_variance_of_each_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2000), nn.Linear(2000, 3))
    data, density = samples(), 0.1
    small = prune(net, data, density, method=RandomMask()).model
    bare = prune(net, data, density, method=RandomMask(rescale=False)).model
    x = torch.randn(400, 2000)
    with torch.no_grad():
        whole, scaled, left = (
            float(nn.functional.linear(x, model[2].weight).var()) for model in (net, small, bare)
        )
    assert scaled == pytest.approx(whole, rel=0.2)
    assert left == pytest.approx(density * whole, rel=0.2)
    units = WeightUnits(copy.deepcopy(net))
    rescale(units, 0.25)
    torch.testing.assert_close(units.held["2.weight"].original, 2 * net[2].weight)


def endless(model, x, y):
    return math.inf * cross_entropy(model, x, y)


def test_a_loss_that_pulls_weights_is_refused_where_none_trains(trained):
    loss, scored = channel_lasso(cross_entropy, 1e-4), {"method": LearnedScores(), **BUDGET}
    refused(
        lambda: prune(trained, samples(), 0.3, loss=loss, steps=8, **scored),
        *("scores are learned", "without channel_lasso"),
    )
    with pytest.raises(Diverged):
        prune(trained, samples(), 0.3, loss=endless, steps=8, **scored)


def test_scores_are_learned_on_the_loss_before_any_weight_moves(trained):
    """Their mask does better with the weights as they are than the mask that they start from."""
    data, found = samples(), []

    def loss(model, x, y):
        with torch.no_grad():
            found.append(float(cross_entropy(model, data.floats(), data.y)))
        return cross_entropy(model, x, y)

    prune(trained, data, 0.15, method=LearnedScores(rate=0.1), steps=60, loss=loss, **BUDGET)
    start, learned = found[0], found[30]  # before the first step of the scores, of the weights
    assert learned < 0.9 * start
