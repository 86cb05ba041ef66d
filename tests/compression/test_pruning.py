"""The laws that all pruning methods share, over their table; and what each of them is for."""

import copy
import dataclasses
import functools
import json

import pytest
import torch
import torch.nn.utils.prune
from safetensors import safe_open
from safetensors.torch import save_file
from support.breaking import Fragile, Stopped
from support.refusals import refused
from support.rows import samples
from torch import nn

from isthmus import Bezier, MeanLoss, compression, fit, load_checkpoint, permuted_copy
from isthmus.compression import (
    Compressed,
    LearnedScores,
    Magnitude,
    RandomMask,
    Rewiring,
    StraightThrough,
    baked,
    hold_zeros,
    multiply_adds,
    prune,
    pruners,
    quantize,
    sparsity,
    zero_channels,
    zero_weights,
)
from isthmus.compression.network import weight_layers
from isthmus.compression.pruning.mask import held_in
from isthmus.compression.pruning.rewiring import Pulled, allotted, anchor, rewired
from isthmus.compression.pruning.units import WeightUnits
from isthmus.models import preact_resnet, save_checkpoint, small_cnn
from isthmus.models.view import copied
from isthmus.runs.notices import Notice
from isthmus.training import Training

BUDGET = {"steps": 24, "lr": 0.05, "batch_size": 20, "precision": "fp32"}
METHODS = {
    **pruners(),
    "magnitude after dense training": Magnitude(dense=0.5),
    "rewiring from a random mask": Rewiring(),
    "rewiring after dense training": Rewiring(start="magnitude", dense=0.5, pull=0.1),
}
LATE = [name for name, method in METHODS.items() if getattr(method, "dense", 0)]
WEIGHTS_ALONE = (LearnedScores, Rewiring)
CHANNELS = {name: way for name, way in METHODS.items() if not isinstance(way, WEIGHTS_ALONE)}


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, 3)),
    )


NETS = {
    "convolutional": convolutional,
    "residual": lambda: preact_resnet(8, 3, 1, 4),
    "sequential blocks": lambda: small_cnn(3, 1, 4),
}


COMPUTED = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "older weight norm": nn.utils.weight_norm,
    "older spectral norm": nn.utils.spectral_norm,
    "torch's masks": lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.3),
}
"""What computes the weight of a layer before each pass."""


def test_how_much_is_zero_is_counted_behind_the_masks_and_with_one_copy(monkeypatch):
    net = prune(convolutional(), samples(), 0.3).model
    copies = []
    monkeypatch.setattr(
        compression.network, "copied", lambda model: copies.append(model) or copied(model)
    )
    found = sparsity(net)
    weights = [net[i].weight for i in (0, 3, 6, 8)]
    total = sum(weight.numel() for weight in weights)
    assert found.weights == pytest.approx(sum(int((w == 0).sum()) for w in weights) / total)
    empty = sum(int((w == 0).flatten(1).all(1).sum()) for w in weights[:2])
    assert found.channels == pytest.approx(empty / 10) and len(copies) == 1
    assert (zero_weights(net), zero_channels(net)) == (found.weights, found.channels)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("norm", COMPUTED.values(), ids=COMPUTED)
def test_weights_that_a_network_computes_itself_are_baked_and_compressed(norm, trains, tmp_path):
    torch.manual_seed(0)
    net = convolutional()
    norm(net[3]).requires_grad_(trains)
    net.train()(samples().floats())
    names = list(net.eval().state_dict())
    plain, x = baked(net), samples().floats()
    assert torch.allclose(plain(x), net(x), atol=1e-6)
    assert plain.state_dict().keys() == convolutional().state_dict().keys()
    assert isinstance(plain[3].weight, nn.Parameter) and plain[3].weight.requires_grad == trains
    assert list(net.state_dict()) == names
    small = prune(net, samples(), 0.5)
    assert int((baked(small.model)[3].weight == 0).sum()) > 50
    file = small.save(tmp_path / "small.safetensors")
    assert torch.equal(Compressed.load(file, net).model(x), small.model(x))
    quantized = baked(quantize(net, samples(), 2, layers="all").model)
    assert len(quantized[3].weight.unique()) <= 4


@pytest.fixture(scope="module")
def nets():
    made = {}
    for name, make in NETS.items():
        torch.manual_seed(0)
        made[name] = make()
        fit(made[name], samples(), steps=40, lr=0.05, batch_size=40, precision="fp32")
    return made


def weights_of(model):
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return [layer.weight.detach() for layer in layers]


def nonzeros(model):
    return sum(int(w.count_nonzero()) for w in weights_of(model))


def masks_of(model):
    return {name: held.mask.mask.clone() for name, held in held_in(model).items()}


def outside(model):
    """The largest weight off the masks, and off them behind the masks."""
    values = [
        float(tensor.detach()[~held.mask.mask].abs().sum())
        for held in held_in(model).values()
        for tensor in (getattr(held.part, held.name), held.original)
    ]
    return max(values)


@pytest.mark.parametrize("density", [0.3, 0.7])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_exactly_its_share_of_the_weights(name, density, nets):
    net = nets["convolutional"]
    before = copy.deepcopy(net.state_dict())
    small = prune(net, samples(), density, method=METHODS[name], **BUDGET)
    total = sum(w.numel() for w in weights_of(net))
    target = round(density * total)
    assert sum(int(mask.sum()) for mask in masks_of(small.model).values()) == target
    assert small.record["kept"] == target and small.record["units"] == total
    assert nonzeros(small.model) <= target and outside(small.model) == 0
    assert not small.model.training and small.record["gradients"] == BUDGET["steps"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.requires_grad for p in small.model.parameters())
    again = prune(net, samples(), density, method=METHODS[name], **BUDGET)
    for key, value in small.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_exact_after_every_epoch_and_nothing_lives_off_the_mask(name, nets):
    counts, data = [], samples()

    def loss(model, x, y):
        if held_in(model) and model.training:
            counts.append(sum(int(mask.sum()) for mask in masks_of(model).values()))
            assert outside(model) == 0 or name == "learned-scores"
        return nn.functional.cross_entropy(model(x), y)

    method = METHODS[name]
    if getattr(method, "dense", 0):
        method = dataclasses.replace(method, dense=0.0)
    small = prune(nets["convolutional"], data, 0.4, method=method, loss=loss, **BUDGET)
    assert len(counts) == BUDGET["steps"] and set(counts) == {small.record["kept"]}


@pytest.mark.parametrize("name", METHODS)
def test_masks_survive_further_training_and_files(name, nets, tmp_path):
    small = prune(nets["residual"], samples(), 0.4, method=METHODS[name], **BUDGET)
    model, masks = small.model, masks_of(small.model)
    file = small.save(tmp_path / "small.safetensors")
    loaded = Compressed.load(file, NETS["residual"]())
    assert loaded.record == small.record
    plain, again = baked(model).state_dict(), baked(loaded.model).state_dict()
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    save_checkpoint(model, tmp_path / "whole.safetensors")
    whole = load_checkpoint(tmp_path / "whole.safetensors", copy.deepcopy(loaded.model))
    for network in (model, loaded.model, whole):
        options = {"momentum": 0.9, "weight_decay": 1e-3, "precision": "fp32"}
        fit(network, samples(), steps=5, lr=0.05, batch_size=40, **options)
        assert all(torch.equal(mask, masks[key]) for key, mask in masks_of(network).items())
        assert outside(network) == 0
    assert not torch.equal(weights_of(model)[0], plain["stem.weight"])
    fit(whole, samples(), steps=3, lr=0.01, optimizer=torch.optim.Adam, precision="fp32")
    assert outside(whole) == 0


def test_a_curve_between_networks_of_one_mask_stays_in_the_mask(nets):
    one = prune(nets["residual"], samples(), 0.4, **BUDGET).model
    other = copy.deepcopy(one)
    fit(other, samples(40, seed=3), steps=10, lr=0.05, batch_size=40, precision="fp32")
    curve = Bezier(one, other)
    fit(curve, samples(), steps=6, lr=0.05, batch_size=40, precision="fp32")
    masks = masks_of(one)
    for t in (0.0, 0.3, 0.5, 1.0):
        point = curve.export(t)
        assert outside(point) == 0
        assert all(torch.equal(mask, masks[key]) for key, mask in masks_of(point).items())


def test_a_permuted_copy_carries_its_mask_along(nets):
    small = prune(nets["convolutional"], samples(), 0.4, **BUDGET).model
    refused(lambda: permuted_copy(small, samples(), seed=1), "baked(model)")
    moved = hold_zeros(permuted_copy(baked(small), samples(), seed=1).model)
    x = samples().x
    torch.testing.assert_close(moved(x), small(x), rtol=1e-4, atol=1e-5)
    fit(moved, samples(), steps=5, lr=0.05, batch_size=40, precision="fp32")
    assert outside(moved) == 0 and nonzeros(moved) == nonzeros(small)


@pytest.mark.parametrize("steps", [7, 17, 23])  # 23: no connection moves after it
@pytest.mark.parametrize("name", ["rewiring", "learned-scores", *LATE])
def test_a_run_that_is_killed_goes_on_to_the_same_network(name, steps, nets, tmp_path, monkeypatch):
    often = functools.partial(fit, checkpoint_every=5)
    monkeypatch.setattr(compression.pruning.job, "fit", often)

    def run(folder, left):
        file = tmp_path / folder / "run.state"
        options = {"method": METHODS[name], "loss": Fragile([left]), "checkpoint": file, **BUDGET}
        small = prune(nets["convolutional"], samples(), 0.4, **options)
        return small.record, small.model.state_dict()

    record, whole = run("whole", 1000)
    with pytest.raises(Stopped):
        run("killed", steps)
    again, resumed = run("killed", BUDGET["steps"] - steps + 5)
    assert again["layers"] == record["layers"]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", CHANNELS)
def test_a_network_without_its_channels_computes_the_same(name, kind, nets, tmp_path, monkeypatch):
    net, seen = nets[kind], {}
    real = compression.pruning.run.without_channels

    def spied(model, units, x):
        seen["masked"], seen["on"] = baked(model), dict(units.on)
        return real(model, units, x)

    monkeypatch.setattr(compression.pruning.run, "without_channels", spied)
    small = prune(net, samples(), 0.5, "channels", method=CHANNELS[name], **BUDGET)
    record, x = small.record, samples(30, seed=5).x
    assert record["smaller"] and record["kept"] == round(0.5 * record["units"])
    assert sum(int(on.sum()) for on in seen["on"].values()) == record["kept"]
    with torch.no_grad():
        torch.testing.assert_close(small.model(x), seen["masked"].eval()(x), rtol=1e-5, atol=1e-5)
    smaller = sum(p.numel() for p in small.model.parameters())
    assert smaller < 0.6 * sum(p.numel() for p in net.parameters())
    assert multiply_adds(small.model, x)[0] < 0.6 * multiply_adds(net, x)[0]
    assert not held_in(small.model)
    loaded = Compressed.load(small.save(tmp_path / "small.safetensors"), NETS[kind]())
    with torch.no_grad():
        assert torch.equal(loaded.model(x), small.model(x))
    fit(loaded.model, samples(), steps=3, lr=0.01, precision="fp32")


def test_depthwise_convolutions_lose_channels_with_their_filters():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    small = prune(net, samples(), 0.5, "channels")
    assert small.record["smaller"]
    depthwise = small.model[3]
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels < 8


class Insisting(nn.Module):
    """A network that raises an error where its first layer has other than 8 channels."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.first, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.first(x)
        if hidden.shape[1] != 8:
            raise self.error("8 channels")
        return self.last(hidden.relu().mean((2, 3)))


@pytest.mark.parametrize("error", [AssertionError, KeyError, TypeError, AttributeError])
def test_whatever_a_network_raises_without_its_channels_it_stays_masked(error):
    torch.manual_seed(0)
    with pytest.warns(Notice, match="keeps its masks.*8 channels"):
        small = prune(Insisting(error), samples(), 0.5, "channels")
    assert small.record["smaller"] is False and held_in(small.model)
    assert "8 channels" in small.record["smaller_reason"]


def test_a_network_that_counts_its_channels_stays_masked_and_says_so():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convolutional()

        def forward(self, x):
            hidden = self.net[:6](x).reshape(-1, 54)
            return self.net[6:](hidden)

    torch.manual_seed(0)
    with pytest.warns(Notice, match="keeps its masks.*forward pass that fails.*shape"):
        small = prune(Counts(), samples(), 0.5, "channels")
    assert small.record["smaller"] is False and held_in(small.model) and outside(small.model) == 0


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("resized", RuntimeError("a bug of ours")),
        ("outputs", torch.OutOfMemoryError("out of memory")),
        ("outputs", MemoryError("out of memory")),
    ],
)
def test_what_fails_for_another_reason_is_no_network_that_stays_masked(
    place, error, nets, monkeypatch
):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(compression.pruning.smaller, place, fails)
    with pytest.raises(type(error), match=str(error)):
        prune(nets["convolutional"], samples(), 0.5, "channels")


class Attending(nn.Module):
    """Attention of the rows of an image to each other."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        rows = x.flatten(1, 2)
        return self.head(self.attention(rows, rows, rows)[0].mean(1))


def test_of_attention_the_output_projection_is_pruned_and_nothing_else():
    torch.manual_seed(0)
    net = Attending()
    small = prune(net, samples(), 0.5)
    assert list(small.record["layers"]) == ["attention.out_proj.weight", "head.weight"]
    plain = baked(small.model)
    assert torch.equal(plain.attention.in_proj_weight, net.attention.in_proj_weight)
    x = samples().floats()
    torch.testing.assert_close(small.model(x), plain(x))
    assert int((plain.attention.out_proj.weight == 0).sum()) > 0


@pytest.mark.parametrize("made", ["pruned", "rounded"])
def test_layers_of_a_compressed_network_share_a_weight_only_where_they_do(made):
    def compressed(net):
        if made == "pruned":
            return prune(net, samples(), 0.5).model
        return quantize(net, samples(), 4, layers="all").model

    for _ in range(10):
        assert len(weight_layers(compressed(convolutional()))) == 4
    net = compressed(nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36)))
    parts = [net[i].parametrizations.weight for i in (1, 2)]
    parts[1].original = parts[0].original
    refused(lambda: weight_layers(net), "layers 1 and 2", "share one weight")


class Tied(nn.Module):
    """A linear layer whose weight is that of an embedding, or the network's own parameter."""

    def __init__(self, to):
        super().__init__()
        self.first = nn.Linear(36, 12)
        self.last = nn.Linear(12, 3, bias=False)
        if to == "an embedding":
            self.table = nn.Embedding(3, 12)
            self.last.weight = self.table.weight
        else:
            self.own = self.last.weight

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


@pytest.mark.parametrize(("to", "names"), [("an embedding", "last and table"), ("it", "last")])
def test_a_weight_that_stands_outside_of_the_layers_too_is_refused(to, names):
    for compress in (lambda net: prune(net, samples(), 0.5), weight_layers):
        refused(lambda compress=compress: compress(Tied(to)), names, "share one weight")
    every = {"layers": "all"}
    refused(lambda: quantize(Tied(to), samples(), 4, **every), names, "share one weight")


def test_random_masks_are_the_floor_of_the_table(nets):
    data = samples(200)
    loss = {
        name: MeanLoss(data)(
            prune(nets["convolutional"], data, 0.15, method=method, **BUDGET).model
        )
        for name, method in pruners().items()
    }
    assert max(loss, key=loss.get) == "random", loss


def test_rewiring_moves_connections_and_keeps_their_number():
    generator = torch.Generator().manual_seed(0)
    on = {
        "a": torch.rand(50, generator=generator) < 0.3,
        "b": torch.rand(20, generator=generator) < 0.5,
    }
    sizes = {
        name: torch.rand(units.shape, generator=generator) * units for name, units in on.items()
    }
    momenta = {name: torch.rand(units.shape, generator=generator) for name, units in on.items()}
    momenta["b"] *= 10
    after = rewired(on, sizes, momenta, 0.5)
    assert sum(int(u.sum()) for u in after.values()) == sum(int(u.sum()) for u in on.values())
    assert int(after["b"].sum()) > int(on["b"].sum())  # where the momentum is larger
    stays = sizes["a"][on["a"]].sort(descending=True).values
    count = len(stays) - -(-len(stays) // 2)
    assert after["a"][sizes["a"] >= stays[count - 1]].all()  # the largest are never moved


def test_connections_of_frozen_weights_do_not_move(nets):
    net = copy.deepcopy(nets["convolutional"])
    net[6].requires_grad_(False)
    method = Rewiring(start="magnitude")
    small = prune(net, samples(), 0.4, method=method, **BUDGET)
    masks, start = masks_of(small.model), masks_of(prune(net, samples(), 0.4).model)
    assert torch.equal(masks["6.weight"], start["6.weight"])
    assert not torch.equal(masks["3.weight"], start["3.weight"])
    assert int(small.model[6].weight.count_nonzero()) == small.record["layers"]["6.weight"]["kept"]


def test_what_rewiring_pulls_to_is_where_the_weights_were_when_connections_moved(nets):
    net, data = nets["convolutional"], samples(320)
    far = {}
    for pull in (0.0, 5.0):
        method = Rewiring(start="magnitude", pull=pull)
        budget = {**BUDGET, "steps": 16}  # an epoch, so that connections move once
        small = prune(net, data, 0.4, method=method, **budget).model
        start = prune(net, data, 0.4).model
        pairs = zip(weights_of(small), weights_of(start), strict=True)
        stay = [(one - other)[(one != 0) & (other != 0)] for one, other in pairs]
        far[pull] = sum(float(change.square().sum()) for change in stay)
    assert 0 < far[5.0] < 0.5 * far[0.0]
    units = WeightUnits(copy.deepcopy(net))
    anchor(units)
    with torch.no_grad():
        for held in units.held.values():
            held.original.add_(0.1)
    count = sum(held.original.numel() for held in units.held.values())
    value = Pulled(lambda *_: torch.ones(()), 3.0, units)(net, data.x, data.y)
    assert value.item() == pytest.approx(1 + 3.0 / 2 * 0.01 * count, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_allotments_are_whole_near_the_shares_and_within_the_room(seed):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(6, generator=generator).tolist()
    room = torch.randint(0, 40, (6,), generator=generator).tolist()
    for total in (0, 1, sum(room) // 2, sum(room)):
        given = allotted(total, shares, room)
        assert sum(given) == total and all(0 <= g <= r for g, r in zip(given, room, strict=True))
    assert allotted(5, [0.0, 0.0], [3, 3]) in ([3, 2], [2, 3])


def test_packed_files_are_small(nets, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2000), nn.ReLU(), nn.Linear(2000, 3))
    nn.init.normal_(net[3].weight, std=0.1)
    dense = save_checkpoint(net, tmp_path / "dense.safetensors").stat().st_size
    for density in (0.05, 0.3):
        small = prune(net, samples(), density)
        size = small.save(tmp_path / "small.safetensors").stat().st_size
        biases = 4 * 2003
        positions = min(1.3 * density * 78_000, 78_000 / 8 + 8)
        assert size - biases - 4096 < 4 * density * 78_000 + positions < dense / 2


def test_bad_input_is_refused(nets, tmp_path):
    net, data = nets["convolutional"], samples()
    for density in (0.0, -0.1, 1.5, float("nan"), "0.5", None, torch.tensor(0.5)):
        refused(lambda density=density: prune(net, data, density), "density")
    refused(lambda: prune(net, data, 0.5, "filters"), "filters", "channels")
    refused(lambda: prune(nn.Sequential(nn.Flatten()), data, 0.5), "without convolutional")
    refused(lambda: prune(net, data, 1e-5), "density")
    scored = {"method": LearnedScores(), **BUDGET}
    refused(lambda: prune(net, data, 0.5, "channels", **scored), "learned scores of channels")
    rewired = {"method": Rewiring(), **BUDGET}
    refused(lambda: prune(net, data, 0.5, "channels", **rewired), "rewiring of channels")
    for method in ("magnitude", 5, Magnitude, StraightThrough(), lambda job: None):
        refused(lambda method=method: prune(net, data, 0.5, method=method), "method", "pruners()")
    for odd in (None, 5):
        refused(lambda odd=odd: prune(odd, data, 0.5), type(odd).__name__, "torch.nn.Module")
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Linear(8, 3))
    refused(lambda: prune(lazy, data, 0.5), "1.weight", "has not run")
    refused(lambda: prune(net, data, 0.5, step=3, lr=0.1), "unknown option step")
    refused(lambda: Magnitude(dense=1.0), "dense")
    for odd in ({"rate": 0.0}, {"start": "magnitude", "dense": 1.0}, {"pull": -1.0}):
        refused(lambda odd=odd: Rewiring(**odd), "rate")
    for momentum in (-1.0, 1.0, float("nan"), float("inf")):
        refused(lambda momentum=momentum: Rewiring(momentum=momentum), "momentum")
    for of, name in ((LearnedScores, "share"), (Magnitude, "dense"), (Rewiring, "momentum")):
        refused(lambda of=of, name=name: of(**{name: "x"}), f"{name} = 'x'", "a number")
    refused(lambda: Rewiring(start="x"), "start = 'x'", "random or magnitude")
    for seed in (2**70, -(2**70), 1.5, None, "x"):
        for of in (Rewiring, RandomMask, functools.partial(Training, steps=1, lr=0.1)):
            refused(lambda of=of, seed=seed: of(seed=seed), "seed")
    refused(lambda: Rewiring(dense=0.5), "random mask after dense training")
    refused(lambda: LearnedScores(share=1.0), "share")
    one = nn.Linear(36, 36)
    tied = nn.Sequential(nn.Flatten(), one, nn.ReLU(), nn.Linear(36, 36), nn.Linear(36, 3))
    tied[3].weight = one.weight
    refused(lambda: prune(tied, data, 0.5), "share one weight")
    file = prune(net, data, 0.5).save(tmp_path / "small.safetensors")
    refused(lambda: Compressed.load(file, preact_resnet(8, 3, 1)), "small.safetensors")
    refused(lambda: Compressed.load(save_checkpoint(net, tmp_path / "x.st"), net), "no compressed")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:-9] + b"\x00\x01\x02\x03\x04\x05\x06\x07\x08")
    refused(lambda: Compressed.load(damaged, net))


@pytest.mark.parametrize("change", ["fewer values", "another mask", "another shape"])
def test_a_file_whose_mask_does_not_fit_is_refused(change, nets, tmp_path):
    file = prune(nets["convolutional"], samples(), 0.5).save(tmp_path / "small.safetensors")
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    values = next(name for name in tensors if name.endswith("//values"))
    name = values.removesuffix("//values")
    if change == "fewer values":
        tensors[values] = tensors[values][:-1]
    elif change == "another mask":
        tensors[f"{name}//bits"] = 255 - tensors[f"{name}//bits"]
    else:
        described = json.loads(about["isthmus_compressed"])
        described["packed"][name]["shape"][0] += 1
        about["isthmus_compressed"] = json.dumps(described)
    save_file(tensors, tmp_path / "other.safetensors", about)
    refused(lambda: Compressed.load(tmp_path / "other.safetensors", nets["convolutional"]))


def test_density_1_changes_nothing(nets):
    net, x = nets["residual"], samples().x
    small = prune(net, samples(), 1.0)
    assert nonzeros(small.model) == nonzeros(net)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(small.model), weights_of(net)))  # noqa: B905
    torch.testing.assert_close(small.model(x), net(x))


def test_every_method_of_the_room_is_in_a_table():
    from isthmus.compression import quantizers

    rows = {type(row) for table in (pruners(), quantizers()) for row in table.values()}
    public = [getattr(compression, name) for name in compression.__all__]
    marks = {"Compressed", "Grid"}
    kinds = {kind for kind in public if isinstance(kind, type) and kind.__name__ not in marks}
    assert kinds == rows
