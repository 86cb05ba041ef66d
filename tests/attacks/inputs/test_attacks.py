"""Laws that every attack keeps (specification 17: 13), closed forms on linear networks, and what
attacks cost.
"""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.networks import ZOO, data, network, pair
from support.refusals import refused
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from isthmus import Bezier, Data, expected_over_t, fit, load_data
from isthmus.attacks import (
    APGD,
    FAB,
    MSD,
    PGD,
    NoiseFGSM,
    Square,
    WorstOf,
    auto_attack,
    fgsm,
    random_fgsm,
)
from isthmus.attacks.inputs.apgd import checkpoints
from isthmus.attacks.inputs.fab import onto_plane
from isthmus.attacks.inputs.gradient import Ascent
from isthmus.attacks.inputs.objectives import TargetedDLR, dlr, margin, ranked
from isthmus.cli.words import parse_attack, parse_balls, parse_loss
from isthmus.data import L1, L2, Linf
from isthmus.metrics import Accuracy, MeanLoss, RobustAccuracy, RobustLoss, attacked, measure
from isthmus.models import mlp, small_cnn
from isthmus.training import adversarial, cross_entropy, trades
from isthmus.training.schedules import constant

pytestmark = pytest.mark.numeric

RADII = {"linf": Linf(0.05), "l2": L2(0.5), "l1": L1(2.0)}


def table(radius=lambda ball: ball):
    """Every attack in every ball it takes, by name; the balls are changed by `radius`."""
    made = {}
    for name, ball in RADII.items():
        ball = radius(ball)
        made |= {
            f"fgsm {name}": fgsm(ball),
            f"random fgsm {name}": random_fgsm(ball),
            f"pgd {name}": PGD(ball, steps=4, restarts=2),
            f"pgd margin {name}": PGD(ball, steps=4, random_start=False, objective=margin),
            f"pgd worst {name}": PGD(ball, steps=4, returns="worst"),
        }
        if name != "l1":
            made |= {
                f"apgd {goal} {name}": APGD(ball, goal, steps=8, targets=2)
                for goal in ("ce", "dlr", "targeted")
            }
            made |= {f"fab {name}": FAB(ball, steps=3, restarts=2, targets=2)}
            made |= {f"square {name}": Square(ball, queries=12)}
    balls = [radius(ball) for ball in RADII.values()]
    made["worst of norms"] = WorstOf([PGD(ball, steps=2) for ball in balls])
    made |= {
        "msd": MSD(balls, steps=3),
        "msd worst": MSD(balls, steps=3, restarts=2, returns="worst"),
    }
    return made


ATTACKS = pytest.mark.parametrize("name", table())


def ball_of(attack):
    return attack.ball if hasattr(attack, "ball") else None


def answered(n=24, seed=5, kind="batchnorm"):
    """Images with the labels that a network of random weights gives them: it is right on all, and
    easily fooled.
    """
    x = data(n, seed=seed).floats()
    with torch.no_grad():
        return Data(x, network(kind)(x).argmax(1), 4)


@pytest.fixture
def net():
    return network("batchnorm")


@pytest.fixture(scope="module")
def samples():
    some = answered()
    return some.x, some.y


def loss_of(net, x, y):
    with torch.no_grad():
        return F.cross_entropy(net(x), y, reduction="none")


def right(net, x, y):
    with torch.no_grad():
        return net(x).argmax(1) == y


@ATTACKS
def test_attacked_inputs_are_in_ball_and_box(name, net, samples):
    attack, (x, y) = table()[name], samples
    moved = attack(net, x, y)
    assert moved.shape == x.shape and moved.dtype == x.dtype and not moved.requires_grad
    assert moved.min() >= 0 and moved.max() <= 1
    balls = [ball_of(attack)] if ball_of(attack) else list(RADII.values())
    inside = torch.stack([ball.contains(moved - x, 1e-5) for ball in balls]).any(0)
    assert inside.all()
    assert isinstance(attack, FAB) or not torch.equal(moved, x), (
        "it tried; FAB returns what fools, or the input"
    )


@ATTACKS
def test_no_attack_is_weaker_than_none(name, net, samples):
    attack, (x, y) = table()[name], samples
    y = torch.where(torch.arange(len(y)) < 5, (y + 1) % 4, y)  # some that the network gets wrong
    clean = right(net, x, y)
    assert 0 < clean.sum() < len(y)
    moved = attack(net, x, y)
    if getattr(attack, "returns", "fooled") == "worst":
        assert (loss_of(net, moved, y) >= loss_of(net, x, y) - 1e-6).all()
        assert loss_of(net, moved, y).mean() > loss_of(net, x, y).mean()
    else:
        assert torch.equal(moved[~clean], x[~clean])
        assert (right(net, moved, y) <= clean).all()


@ATTACKS
def test_a_ball_of_no_radius_returns_the_input(name, net, samples):
    attack = table(lambda ball: replace(ball, eps=0.0))[name]
    assert torch.equal(attack(net, *samples), samples[0])


@ATTACKS
def test_the_same_seed_gives_the_same_inputs_and_leaves_all_random_state(name, net, samples):
    attack = table()[name]
    before = torch.get_rng_state()
    first = attack(net, *samples)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(attack(net, *samples), first)


@pytest.mark.parametrize(
    "name",
    [n for n in table() if hasattr(table()[n], "seed") and "margin" not in n and n[0] != "f"],
)
def test_another_seed_gives_other_inputs(name, net, samples):
    attack = table()[name]
    attack = replace(attack, returns="worst") if isinstance(attack, Ascent) else attack
    assert not torch.equal(replace(attack, seed=1)(net, *samples), attack(net, *samples))


@ATTACKS
def test_the_network_is_left_as_it_was(name, samples):
    net = network("frozen").train()
    net[1].eval()
    net[4].weight.grad = torch.ones_like(net[4].weight)
    state, flags = copy.deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    modes = [part.training for part in net.modules()]
    table()[name](net, *samples)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items()), "weights and buffers"
    assert [p.requires_grad for p in net.parameters()] == flags
    assert [part.training for part in net.modules()] == modes
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["4.weight"]
    assert (net[4].weight.grad == 1).all()


@pytest.mark.parametrize(
    "attack", [PGD(Linf(0.1), 2), PGD(Linf(0.1), 2, batch_statistics=True, returns="last")]
)
def test_the_network_is_left_as_it_was_when_the_attack_breaks_off(attack, samples):
    net = network("batchnorm").train()
    with pytest.raises(RuntimeError):
        attack(net, samples[0][:, :1], samples[1])
    assert all(p.requires_grad for p in net.parameters()) and all(
        part.training for part in net.modules()
    )
    assert net[1].track_running_stats


@ATTACKS
def test_attacks_work_in_float64(name, net, samples):
    x, y = samples
    moved = table()[name](copy.deepcopy(net).double(), x.double(), y)
    balls = [ball_of(table()[name])] if ball_of(table()[name]) else list(RADII.values())
    assert moved.dtype == torch.float64
    assert torch.stack([ball.contains(moved - x.double(), 2e-7) for ball in balls]).any(0).all()


DETERMINISTIC = {
    "fgsm": fgsm(Linf(0.05)),
    "pgd": PGD(L2(0.5), steps=4, random_start=False),
    "pgd l1 worst": PGD(L1(2.0), steps=4, random_start=False, returns="worst"),
    "fab": FAB(Linf(0.05), steps=4, targets=3),
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_without_chance_neither_batches_nor_order_matter(name, net, samples):
    attack, (x, y) = DETERMINISTIC[name], samples
    net, x = copy.deepcopy(net).double(), x.double()
    whole, order = (
        attack(net, x, y),
        torch.randperm(len(x), generator=torch.Generator().manual_seed(0)),
    )
    tie = {"atol": 1e-9, "rtol": 0}
    assert torch.allclose(replace(attack, batch_size=5)(net, x, y), whole, **tie)
    assert torch.allclose(attack(net, x[order], y[order]), whole[order], **tie)


@pytest.mark.parametrize("kind", sorted(ZOO.keys() - {"batchnorm1d"}))
def test_any_network_can_be_attacked(kind, samples):
    """Any whose answer on a sample is its own; one that normalizes by the batch in eval mode has no
    such answer.
    """
    net, (x, y) = network(kind), samples
    y = net(x).argmax(1)
    for attack in (
        PGD(Linf(0.2), steps=3, returns="worst"),
        APGD(L2(2.0), "dlr", steps=5),
        FAB(Linf(0.2), steps=3),
    ):
        moved = attack(net, x, y)
        assert moved.shape == x.shape and attack.ball.contains(moved - x, 1e-5).all()
        if isinstance(attack, PGD):
            assert loss_of(net, moved, y).mean() > loss_of(net, x, y).mean()


# Closed forms on linear networks.


def two_classes(seed=0, scale=1.0):
    """logits (0, <w, x> + b): the gradient has one direction everywhere."""
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(16), scale * torch.randn(16, generator=g)]))
        net[1].bias.zero_()
    return net, net[1].weight[1].detach().view(1, 1, 4, 4)


@pytest.mark.parametrize("ball", [Linf(0.2), L2(0.9), L1(1.5), L1(1.5, share=0.2)], ids=str)
def test_pgd_reaches_the_optimum_of_a_linear_network(ball):
    """max <w, d> in ball and box: sign w clipped for l-inf; in general by projecting ever longer
    steps along w.
    """
    net, w = two_classes()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.zeros(6, dtype=torch.long)
    moved = PGD(ball, steps=120, step=ball.eps / 10, returns="worst")(net, x, y)
    if isinstance(ball, Linf):
        assert torch.allclose(moved, (x + ball.eps * w.sign()).clamp(0, 1))
    best = (
        ball.project(1e4 * w.expand_as(x), -x, 1 - x)
        if isinstance(ball, L2)
        else greedy(ball, x, w)
    )
    reached, optimum = ((moved - x) * w).flatten(1).sum(1), (best * w).flatten(1).sum(1)
    # The steepest step of l1 and the Euclidean projection can go round in a circle short of the
    # optimum.
    assert (reached >= (0.8 if isinstance(ball, L1) else 0.999) * optimum).all() and (
        reached <= optimum + 1e-9
    ).all()


def greedy(ball, x, w):
    """The largest weights first, as far as the box lets them, until the l1 budget is spent; l-inf:
    all to the end.
    """
    room = torch.where(w > 0, 1 - x, x)
    if isinstance(ball, Linf):
        return w.sign() * room.clamp(max=ball.eps)
    out = torch.zeros_like(x).flatten(1)
    for i, rooms in enumerate(room.flatten(1)):
        left = ball.eps
        for j in w.flatten().abs().argsort(descending=True).tolist():
            out[i, j] = w.flatten()[j].sign() * min(left, float(rooms[j]))
            left -= abs(float(out[i, j]))
    return out.view_as(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda ball: PGD(ball, steps=60),
        lambda ball: PGD(ball, steps=20, random_start=False),
        lambda ball: APGD(ball, "ce"),
        lambda ball: FAB(ball, steps=20),
    ],
)
@pytest.mark.parametrize("kind", [Linf, L2])
def test_a_linear_network_is_fooled_exactly_where_it_can_be(make, kind):
    net, w = two_classes(2)
    net[1].bias.data[1] = -0.5 * w.sum()  # the classes share the box
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = net(x).argmax(1)
    sign = torch.where(y == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    eps = {Linf: 0.08, L2: 0.4}[kind]
    best = x + kind(eps).project(1e4 * sign * w.expand_as(x), -x, 1 - x)
    gap = net(best)[:, 1]
    vulnerable = (gap > 0) != (y == 1)
    clear = gap.abs() > 0.01
    assert 5 < vulnerable[clear].sum() < clear.sum() - 5
    fooled = ~right(net, make(kind(eps))(net, x, y), y)
    assert torch.equal(fooled[clear], vulnerable[clear])


@pytest.mark.parametrize("ball", [Linf(1.0), L2(1.0)])
def test_the_way_to_a_plane_is_the_shortest_in_the_box(ball):
    """By walking along w within the box until the plane is crossed, the length by bisection."""
    g = torch.Generator().manual_seed(0)
    x, w = (torch.rand(12, 1, 3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    w, value = w - 0.5, 3 * torch.rand(12, generator=g, dtype=torch.float64) - 1.5
    w[0, 0, 0, 0] = 0.0
    delta = onto_plane(ball, x, w, value)
    assert (x + delta).min() >= -1e-12 and (x + delta).max() <= 1 + 1e-12
    for i in range(12):
        ahead = -torch.sign(value[i]) * w[i]
        speed = ahead.sign() if isinstance(ball, Linf) else ahead

        def walked(length, i=i, speed=speed):
            return (x[i] + length * speed).clamp(0, 1) - x[i]

        def crossed(length, i=i, walked=walked):
            reached = (walked(length) * w[i]).sum() + value[i]
            return reached * torch.sign(value[i]) <= 0

        low, high = 0.0, 1e6  # from there on every value is at its border
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if crossed(middle) else (middle, high)
        assert torch.allclose(delta[i], walked(high), rtol=0, atol=1e-9), i


# The pieces of single attacks.


def test_dlr_is_what_the_paper_says_and_does_not_see_scale_or_shift():
    logits, y = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    target = ranked(logits, y, 1)
    for objective, naive in (
        (dlr, naive_dlr),
        (TargetedDLR(target), lambda z, label: naive_targeted(z, label)),
    ):
        values = objective(logits, y)
        for z, label, value in zip(logits.tolist(), y.tolist(), values.tolist(), strict=True):
            assert value == pytest.approx(naive(z, label))
        assert torch.allclose(objective(7 * logits + 3, y), values)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def naive_dlr(z, label):
    top = sorted(z, reverse=True)
    return -(z[label] - max(v for i, v in enumerate(z) if i != label)) / (top[0] - top[2])


def naive_targeted(z, label):
    top = sorted(z, reverse=True)
    target = max((v, i) for i, v in enumerate(z) if i != label)[1]
    return -(z[label] - z[target]) / (top[0] - (top[2] + top[3]) / 2)


def test_apgd_reconsiders_its_step_where_the_paper_does():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert all(0 < at <= 7 for at in checkpoints(7))


def test_apgd_with_its_defaults_needs_no_tuning_to_match_pgd(net, samples):
    """Same number of gradients, the objective not worse on average than the best of three fixed
    steps.
    """
    x, y = samples
    pgds = [
        PGD(L2(0.25), steps=20, step=s, returns="worst", random_start=False)
        for s in (0.01, 0.05, 0.25)
    ]
    best = max(float(loss_of(net, pgd(net, x, y), y).mean()) for pgd in pgds)
    tough = Data(x, y, 4)
    apgd = RobustAccuracy(tough, APGD(L2(0.25), "ce", steps=20))(net)
    assert (
        apgd
        <= min(RobustAccuracy(tough, replace(pgd, returns="fooled"))(net) for pgd in pgds) + 0.05
    )
    assert best > float(loss_of(net, x, y).mean())


def test_square_fools_a_network_that_has_no_gradient(net, samples):
    class Steps(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return net((x * 16).round() / 16)

    x, y = samples
    refused(lambda: PGD(Linf(0.2))(Steps(), x, y), "no gradient")
    for ball in (Linf(0.2), L2(3.0)):
        assert (
            right(Steps(), Square(ball, queries=150)(Steps(), x, y), y).sum()
            < right(Steps(), x, y).sum() / 2
        )


def test_worst_of_is_as_strong_as_the_union(net, samples):
    x, y = samples
    parts = [PGD(Linf(0.02), steps=3), PGD(L2(0.3), steps=3), PGD(L1(2.0), steps=3)]
    together = right(net, WorstOf(parts)(net, x, y), y)
    alone = torch.stack([right(net, part(net, x, y), y) for part in parts]).all(0)
    assert together.sum() <= alone.sum() and alone.sum() < right(net, x, y).sum()


def test_each_attack_of_several_meets_only_who_still_stands(net, samples):
    x, y = samples
    met = []

    def spy(model, x, y):
        met.append(len(x))
        return PGD(Linf(0.03), steps=2)(model, x, y)

    WorstOf([spy, spy])(net, x, y)
    fooled = (~right(net, PGD(Linf(0.03), steps=2)(net, x, y), y)).sum()
    assert met[0] == right(net, x, y).sum() and met[1] == len(x) - fooled


# What attacks cost.


class Counting(TorchDispatchMode):
    """Forward passes by their samples, and the gradients of weights that are computed."""

    def __init__(self):
        super().__init__()
        self.samples, self.weights, self.backward = [], 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "convolution" and args[0].shape[1] == 3:
            self.samples.append(len(args[0]))
        if name == "convolution_backward":
            self.backward += 1
            self.weights += args[-1][1] or args[-1][2]
        return function(*args, **(kwargs or {}))


def live_point():
    """A network whose weights are themselves the end of a graph."""
    return Bezier(*pair("batchnorm")).at(0.3)


@pytest.mark.parametrize(
    "make", [lambda: network("batchnorm"), live_point], ids=["network", "point of a curve"]
)
@pytest.mark.parametrize(
    "attack",
    [PGD(Linf(0.05), 3), APGD(Linf(0.05), "dlr", 4), FAB(L2(1.0), 2)],
    ids=lambda a: type(a).__name__,
)
def test_no_gradient_of_a_weight_is_computed(make, attack, samples):
    net = make()
    with Counting() as count:
        attack(net, *samples)
    assert count.backward > 0 and count.weights == 0


@pytest.mark.parametrize("steps", [1, 7])
def test_a_training_attack_is_one_forward_and_one_backward_pass_a_step(steps, net, samples):
    with Counting() as count:
        PGD(Linf(0.05), steps).for_training()(net, *samples)
    assert count.samples == [24] * steps and count.backward == 2 * steps


def test_fooled_samples_leave_the_batch(net, samples):
    with Counting() as count:
        PGD(Linf(0.3), 10)(net, *samples)
    seen = count.samples
    assert seen[0] == 24 and seen == sorted(seen, reverse=True) and seen[-1] < seen[1]


def test_batches_are_no_larger_than_asked(net, samples):
    with Counting() as count:
        PGD(Linf(0.05), 2, batch_size=7)(net, *samples)
    assert max(count.samples) == 7


# Points of a curve, BatchNorm, precision.


def test_a_live_point_is_attacked_where_it_stands(samples):
    curve = Bezier(*pair("batchnorm"))
    x, y = samples
    point = curve.at(0.3)
    y = point.eval()(x).argmax(1)
    attack = PGD(Linf(0.1), steps=3, random_start=False, returns="worst")
    exported = attack(curve.export(0.3), x, y)
    assert torch.allclose(attack(point, x, y), exported, atol=1e-6)
    assert not torch.equal(attack(curve.export(0.9), x, y), exported)
    assert curve.bends.grad is None and curve.bends.requires_grad
    cross_entropy(point, x, y).backward()  # the graph of the weights is still whole
    assert curve.bends.grad.abs().sum() > 0


def test_batch_statistics_are_those_of_training_and_move_no_buffer(samples):
    net, (x, y) = network("batchnorm").train(), samples
    net[7].eval()  # dropout, else chance is in it
    net[5].eval()  # a layer that training leaves alone keeps its running statistics
    before = copy.deepcopy(net.state_dict())
    attack = PGD(
        Linf(0.05), steps=1, step=0.05, random_start=False, returns="last", batch_statistics=True
    )
    moved = attack(net, x, y)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    free = x.clone().requires_grad_()
    F.cross_entropy(net(free), y).backward()
    assert torch.equal(moved, (x + 0.05 * free.grad.sign()).clamp(0, 1))
    assert not torch.equal(moved, replace(attack, batch_statistics=False)(net, x, y))


def test_attacks_run_in_bf16_when_asked(net, samples):
    kinds = []
    hook = net[0].register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    moved = PGD(Linf(0.1), steps=3, precision="bf16")(net, *samples)
    hook.remove()
    assert set(kinds) == {torch.bfloat16} and moved.dtype == torch.float32
    assert right(net, moved, samples[1]).sum() < right(net, *samples).sum()


# Metrics.


def test_robust_accuracy_is_the_accuracy_on_attacked_data(net):
    some, attack = answered(40, seed=6), PGD(Linf(0.05), steps=5)
    rate = RobustAccuracy(some, attack)(net)
    assert rate.n == 40 and rate.hits == int(
        right(net, attack(net, some.floats(), some.y), some.y).sum()
    )
    assert rate < Accuracy(some)(net)
    assert RobustAccuracy(some, PGD(Linf(0.0)))(net) == Accuracy(some)(net)
    worst = replace(attack, returns="worst")
    assert RobustLoss(some, worst)(net) > MeanLoss(some)(net)
    assert RobustLoss(some, PGD(Linf(0.0), returns="worst"))(net) == pytest.approx(
        MeanLoss(some)(net)
    )


def test_questions_about_one_attack_share_it(net):
    some, met = answered(12), []

    def attack(model, x, y):
        met.append(len(x))
        return PGD(Linf(0.05), returns="worst")(model, x, y)

    asked = {"accuracy": RobustAccuracy(some, attack), "loss": RobustLoss(some, attack)}
    together = measure(net, asked)
    assert met == [12] and together == {name: metric(net) for name, metric in asked.items()}
    assert len(met) == 3
    with torch.no_grad():
        net[-1].bias.add_(torch.tensor([5.0, 0, 0, 0]))
    assert measure(net, asked) != together, "another network, another answer"


def test_an_attack_that_breaks_the_rules_is_refused(net):
    some = data(8)
    refused(lambda: attacked(net, some, lambda model, x, y: x + 2), "in [0, 1]")
    refused(lambda: attacked(net, some, lambda model, x, y: x[:, :1]), "shape")


# Training.


def digits():
    whole = load_data("digits")
    return whole[:400]


def test_adversarial_training_lowers_the_robust_loss():
    some, attack = digits(), PGD(Linf(0.1), steps=5, returns="worst")
    torch.manual_seed(0)
    start = mlp(channels=1, size=8, hidden=(32,))
    found = {}
    for name, loss in {
        "clean": cross_entropy,
        "adversarial": adversarial(PGD(Linf(0.1), steps=3)),
        "trades": trades(PGD(Linf(0.1), steps=3)),
        "fast": adversarial(NoiseFGSM(Linf(0.1))),
    }.items():
        net = copy.deepcopy(start)
        fit(
            net,
            some,
            loss,
            steps=120,
            lr=0.1,
            batch_size=64,
            schedule=constant,
            precision="fp32",
            device="cpu",
        )
        found[name] = RobustLoss(some, attack)(net)
    assert max(found[name] for name in ("adversarial", "trades", "fast")) < 0.8 * found["clean"], (
        found
    )


def test_a_robust_path_lowers_the_robust_loss_at_the_middle():
    """Specification 17: 14."""
    some, attack = digits(), PGD(Linf(0.1), steps=5, returns="worst")
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ends.append(mlp(channels=1, size=8, hidden=(24,)))
        fit(ends[-1], some, steps=80, lr=0.1, batch_size=64, precision="fp32", device="cpu")
    found = []
    for loss in (cross_entropy, adversarial(PGD(Linf(0.1), steps=3))):
        curve = Bezier(*ends)
        fit(
            curve,
            some,
            expected_over_t(loss),
            steps=120,
            lr=0.1,
            batch_size=64,
            precision="fp32",
            device="cpu",
        )
        found.append(RobustLoss(some, attack)(curve.export(0.5)))
    assert found[1] < 0.8 * found[0]


@pytest.mark.parametrize("kind", ["batchnorm", "dropout"])
def test_the_attack_and_the_loss_share_t(kind, samples):
    curve, seen = Bezier(*pair(kind)), []

    def attack(model, x, y):
        seen.append(model.theta)
        return x

    def loss(model, x, y):
        seen.append(model.theta)
        return cross_entropy(model, x, y)

    expected_over_t(adversarial(attack, loss))(curve, *samples)
    assert seen[0] is seen[1]


def test_training_attacks_move_buffers_once_a_step_and_draw_afresh(samples):
    net, (x, y) = network("batchnorm").train(), samples
    loss = adversarial(PGD(Linf(0.1), steps=3))
    before = int(net[1].num_batches_tracked)
    loss(net, x, y)
    assert int(net[1].num_batches_tracked) == before + 1
    attack = loss.attack
    assert not torch.equal(attack(net, x, y), attack(net, x, y)), "two steps, two starts"
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(attack(net, x, y))
    assert torch.equal(*states), "from the global generator, which fit seeds"


def test_trades_has_the_value_and_gradient_of_its_definition(samples):
    net, (x, y) = network("groupnorm"), samples
    start = (x + 0.01).clamp(0, 1)
    loss = trades(lambda model, x, y: start, beta=2.0)
    value = loss(net, x, y)
    p, q = net(x).softmax(1), net(start).softmax(1)
    naive = F.cross_entropy(net(x), y) + 2.0 * (p * (p / q).log()).sum(1).mean()
    assert value.item() == pytest.approx(naive.item(), rel=1e-4)
    grads = [
        torch.autograd.grad(v, list(net.parameters()), allow_unused=True) for v in (value, naive)
    ]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*grads, strict=True))
    moved = PGD(Linf(0.1), steps=3, returns="worst")(net, x, net(x).softmax(1).detach())
    kl = F.kl_div(net(moved).log_softmax(1), net(x).softmax(1), reduction="none").sum(1)
    assert kl.mean() > 0.01, "from the clean outputs as labels PGD climbs the divergence"


def test_adversarial_training_in_bf16_still_trains(samples):
    """Weights cast while frozen must not be reused by the training pass."""
    net = network("batchnorm").train()
    with torch.autocast("cpu", torch.bfloat16):
        value = adversarial(PGD(Linf(0.05), steps=2))(net, *samples)
    value.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for n, p in net.named_parameters()
        if n != "0.bias"
    )


# Single steps from noise, and several norms.


def test_a_single_step_from_noise_is_what_its_paper_says(net, samples):
    """delta = eta + eps sign(gradient at x + eta), not projected onto the ball, which it leaves."""
    x, y = samples
    moved = NoiseFGSM(Linf(0.05))(net, x, y)
    noise = Linf(0.1).sample(x.shape, torch.Generator().manual_seed(0))
    start = (x + noise).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(start), y, reduction="sum"), start)
    assert torch.equal(moved, (start + 0.05 * gradient.sign()).clamp(0, 1))
    assert Linf(0.15).contains(moved - x).all() and not Linf(0.05).contains(moved - x).any()
    assert torch.equal(NoiseFGSM(Linf(0.0))(net, x, y), x)


def test_a_single_step_is_one_forward_and_one_backward_pass(net, samples):
    loss = adversarial(NoiseFGSM(Linf(0.05)))
    with Counting() as count:
        loss.attack(net.train(), *samples)
    assert count.samples == [24] and count.backward == 2 and count.weights == 0
    assert not torch.equal(loss.attack(net, *samples), loss.attack(net, *samples)), (
        "two steps, two draws"
    )


def test_a_step_in_several_balls_goes_where_the_loss_is_highest(net, samples):
    """The naive way: one step of PGD in each ball, and the best of them for each sample."""
    (x, y), balls = samples, list(RADII.values())
    options = {"random_start": False, "returns": "last"}
    moved = MSD(balls, steps=1, **options)(net, x, y)
    alone = [PGD(ball, steps=1, **options)(net, x, y) for ball in balls]
    losses = torch.stack([loss_of(net, each, y) for each in alone])
    assert len(set(losses.argmax(0).tolist())) > 1, "no ball is the worst for all"
    for i, best in enumerate(losses.argmax(0)):
        assert torch.equal(moved[i], alone[best][i])


def test_the_worst_of_several_attacks_has_a_form_for_training(net, samples):
    """All of them on all samples, drawn afresh; for each sample the point of the highest loss."""
    x, y = samples
    parts = [PGD(ball, steps=1, random_start=False) for ball in RADII.values()]
    attack = adversarial(WorstOf(parts)).attack
    moved = attack(net, x, y)
    losses = torch.stack(
        [loss_of(net, replace(part, returns="last")(net, x, y), y) for part in parts]
    )
    torch.testing.assert_close(loss_of(net, moved, y), losses.amax(0))
    state = copy.deepcopy(net.train().state_dict())
    attack(net, x, y)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert all(part.training for part in net.modules()) and net[1].track_running_stats


@pytest.mark.parametrize("name", ["adversarial", "trades", "fast"])
def test_a_path_robust_to_several_norms_is_one_line(name):
    curve, balls = Bezier(*pair("batchnorm")), parse_balls("linf,l2,l1", "0.1,0.5,2", (3, 8, 8))
    loss = parse_loss(name, balls, steps=None if name == "fast" else 2)
    assert fit(curve, data(), expected_over_t(loss), steps=10, lr=0.1, precision="fp32").steps == 10


# What cannot be attacked is refused.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGD(Linf(0.1), steps=0), ["steps = 0"]),
        (lambda: PGD(Linf(0.1), step=-1.0), ["step = -1"]),
        (lambda: PGD(Linf(0.1), returns="best"), ["best"]),
        (lambda: PGD(Linf(0.1), returns="last", restarts=2), ["restarts"]),
        (lambda: PGD(Linf(0.1), batch_statistics=True), ["batch"]),
        (lambda: APGD(L1(1.0)), ["L1"]),
        (lambda: FAB(L1(1.0)), ["L1"]),
        (lambda: Square(L1(1.0)), ["L1"]),
        (lambda: APGD(Linf(0.1), "cw"), ["cw"]),
        (lambda: Square(Linf(0.1), p=0.0), ["p = 0"]),
        (lambda: WorstOf([]), ["no attacks"]),
        (lambda: MSD([]), ["no balls"]),
        (lambda: NoiseFGSM(Linf(0.1), noise=-1.0), ["noise = -1"]),
        (lambda: parse_attack("pgd", [Linf(0.1)], steps=0), ["steps = 0"]),
        (lambda: parse_attack("fgsm", [Linf(0.1)], restarts=2), ["restarts", "fgsm"]),
        (lambda: parse_attack("autoattack", [L1(1.0)]), ["L1"]),
        (lambda: parse_balls("linf", "8", (3, 8, 8)), ["eps = 8", "8/255"]),
        (lambda: parse_balls("l1", "192", (3, 8, 8)), ["eps = 192", "every image"]),
        (lambda: parse_balls("linf", "0", (3, 8, 8)), ["eps = 0"]),
        (lambda: parse_balls("linf", "-1/255", (3, 8, 8)), ["eps = -"]),
        (lambda: parse_balls("linf", "1/0", (3, 8, 8)), ["1/0"]),
        (lambda: parse_balls("linf,l2", "0.1", (3, 8, 8)), ["1 radii"]),
        (lambda: parse_balls("l3", None, (3, 8, 8)), ["l3"]),
        (lambda: parse_loss("fast", [Linf(0.1)], steps=3), ["fast"]),
        (lambda: parse_loss("adversarial", [Linf(0.1)], beta=3.0), ["beta"]),
        (lambda: trades(PGD(Linf(0.1)), beta=-1), ["beta"]),
        (
            lambda: PGD(Linf(0.1))(
                network("linear"), torch.rand(2, 3, 8, 8) * 3, torch.zeros(2).long()
            ),
            ["[0, 1]"],
        ),
        (
            lambda: PGD(Linf(0.1))(
                network("linear"), torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2).long()
            ),
            ["uint8"],
        ),
        (
            lambda: PGD(Linf(0.1))(
                nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8), torch.zeros(2).long()
            ),
            ["classifier"],
        ),
        (
            lambda: APGD(Linf(0.1), "dlr")(
                two_classes()[0], torch.rand(2, 1, 4, 4).double(), torch.zeros(2).long()
            ),
            ["2 classes"],
        ),
    ],
)
def test_bad_input_is_refused(make, words):
    refused(make, *words)


# Against other people's attacks.


def robust_digits(ball):
    """A network trained against PGD, and test images."""
    whole = load_data("digits")
    torch.manual_seed(0)
    net = small_cnn(10, channels=1, width=8)
    loss = adversarial(PGD(ball, steps=3))
    fit(net, whole[:1200], loss, steps=150, lr=0.05, batch_size=64, device="cpu", precision="fp32")
    return net, whole[1200:1300]


BALLS = pytest.mark.parametrize("ball", [Linf(0.15), L2(0.8)], ids=["linf", "l2"])


@pytest.mark.slow
@BALLS
def test_auto_attack_agrees_with_its_authors(ball):
    """To within the attacks' own randomness, on a fixed batch."""
    pyautoattack = pytest.importorskip("pyautoattack")
    net, some = robust_digits(ball)
    norm = {Linf: "Linf", L2: "L2"}[type(ball)]
    standard = pyautoattack.AutoAttack(net, norm=norm, eps=ball.eps, seed=0)
    found, _ = standard.run_standard_evaluation(some.floats(), some.y)
    theirs = right(net, found, some.y)
    ours = right(net, auto_attack(ball)(net, some.floats(), some.y), some.y)
    print(
        f"\n{ball}: AutoAttack {ours.sum()} of {len(some)}, pyautoattack {theirs.sum()}, {(ours ^ theirs).sum()} differ"
    )
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 1 and (ours ^ theirs).sum() <= 2


@pytest.mark.slow
@BALLS
def test_auto_attack_agrees_with_another_implementation(ball):
    """To within the attacks' own randomness, on a fixed batch."""
    warnings.simplefilter("ignore")
    torchattacks = pytest.importorskip("torchattacks")
    net, some = robust_digits(ball)
    x, norm = some.floats(), {Linf: "Linf", L2: "L2"}[type(ball)]
    theirs = torchattacks.AutoAttack(
        net, norm=norm, eps=ball.eps, version="standard", n_classes=10, seed=0
    )(x, some.y)
    pgd = RobustAccuracy(some, PGD(ball, steps=20))(net)
    ours, peer = (
        RobustAccuracy(some, auto_attack(ball))(net),
        right(net, theirs, some.y).double().mean().item(),
    )
    print(
        f"\n{ball}: clean {Accuracy(some)(net):.3f}, PGD-20 {pgd:.3f}, AutoAttack {ours:.3f}, torchattacks {peer:.3f}"
    )
    assert ours <= pgd and abs(ours - peer) <= 0.031, "three of a hundred samples"
    strong = {
        "APGD-CE": (
            APGD(ball, "ce"),
            torchattacks.APGD(net, norm=norm, eps=ball.eps, steps=100, seed=0),
        ),
        "APGD-T": (
            APGD(ball, "targeted"),
            torchattacks.APGDT(net, norm=norm, eps=ball.eps, steps=100, n_classes=10),
        ),
        "FAB-T": (
            FAB(ball),
            torchattacks.FAB(
                net, norm=norm, eps=ball.eps, steps=100, n_classes=10, multi_targeted=True
            ),
        ),
        "Square": (
            Square(ball, queries=1000),
            torchattacks.Square(net, norm=norm, eps=ball.eps, n_queries=1000),
        ),
    }
    for name, (one, other) in strong.items():
        accuracy = RobustAccuracy(some, one)(net)
        found = other(x, some.y)
        inside = ball.contains(found - x, 1e-5)
        peer = (right(net, found, some.y) | ~inside).double().mean().item()
        print(f"  {name}: {accuracy:.3f}, torchattacks {peer:.3f}")
        assert accuracy <= peer + 0.04, name


@pytest.mark.slow
def test_pgd_agrees_with_another_implementation():
    """One start at the input, the same step: the same accuracy, to the sample."""
    foolbox = pytest.importorskip("foolbox")
    net, some = robust_digits(Linf(0.15))
    x = some.floats()
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.03, steps=20, random_start=False)
    model = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
    _, _, fooled = theirs(model, x, some.y, epsilons=0.15)
    ours = RobustAccuracy(some, PGD(Linf(0.15), steps=20, step=0.03, random_start=False))(net)
    print(f"\nPGD-20: ours {ours:.3f}, foolbox {1 - fooled.double().mean().item():.3f}")
    assert ours <= 1 - fooled.double().mean().item() + 1e-9
    assert ours.hits >= int((~fooled).sum()) - 3, (
        "ours may be a little stronger: it keeps the worst point, not the last"
    )
