"""The laws of the grids and of all ways to quantize."""

import copy
import functools
import math
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from support.breaking import Fragile, Stopped
from support.refusals import refused
from support.rows import samples
from torch import nn

from isthmus import Bezier, compression, fit
from isthmus.attacks import PGD
from isthmus.compression import (
    BinaryRelax,
    Compressed,
    Magnitude,
    PostTraining,
    StraightThrough,
    baked,
    prune,
    quantize,
    quantizers,
)
from isthmus.compression.packing import (
    pack_codes,
    pack_grid,
    pack_mask,
    pack_zeros,
    unpack_codes,
    unpack_grid,
    unpack_mask,
)
from isthmus.compression.quantization.grids import Grid, grid_of
from isthmus.compression.quantization.rounded import RoundedWeight, round_weight, rounded_in
from isthmus.data import Linf
from isthmus.models import load_checkpoint, save_checkpoint, small_cnn
from isthmus.training import adversarial
from isthmus.training.share import at_share

BITS = (1, "ternary", 2, 4, 8)
BUDGET = {"steps": 20, "lr": 0.05, "batch_size": 20, "precision": "fp32"}


def make():
    return small_cnn(3, 1, 4)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = make()
    fit(model, samples(), steps=40, lr=0.05, batch_size=40, precision="fp32")
    return model


def hard_tensors():
    """Weights of many shapes of distribution: normal, heavy-tailed, one outlier, constant, 0."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(40, 30, generator=generator)
    outlier = 1.4 * torch.ones(500)
    outlier[0] = 70.0
    return {
        "normal": normal,
        "small": 1e-6 * normal,
        "heavy": normal.double().pow(5).float(),
        "outlier": outlier,
        "uneven": torch.cat([normal.flatten() * 1e-3, torch.tensor([1.0, -1.0])]),
        "constant": torch.full((7,), -0.3),
        "zero": torch.zeros(6),
        "one": torch.tensor([0.2]),
        "sparse": normal * (normal > 1.5),
    }


@pytest.mark.parametrize("case", hard_tensors())
@pytest.mark.parametrize("bits", BITS)
def test_rounding_twice_is_rounding_once(bits, case):
    grid, weight = grid_of(bits), hard_tensors()[case]
    once = grid.rounded(weight)
    assert once.shape == weight.shape and once.dtype == weight.dtype
    assert torch.equal(grid.rounded(once), once)
    level, scale = grid.fit(weight)
    assert set(level.unique().tolist()) <= set(grid.levels.double().tolist())
    assert torch.equal(once, (level * scale).float())


@pytest.mark.parametrize("case", hard_tensors())
@pytest.mark.parametrize("bits", BITS)
def test_the_scale_is_that_of_least_squares(bits, case):
    weight = hard_tensors()[case].double()
    level, scale = grid_of(bits).fit(weight)
    error = float((weight - scale * level).square().sum())
    for factor in np.linspace(0.5, 1.5, 201):
        other = float((weight - factor * scale * level).square().sum())
        assert error <= other * (1 + 1e-6) + 1e-9 * float(weight.square().sum())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_grid_is_near_the_best_of_a_brute_force_over_scales(bits):
    grid = grid_of(bits)
    for weight in (hard_tensors()["normal"], hard_tensors()["heavy"]):
        size = weight.double().abs()
        levels = grid.levels.double()
        best = min(
            float((weight.double()[..., None] - scale * levels).abs().amin(-1).square().sum())
            for scale in torch.linspace(0.05, 1.2, 400).double() * size.max() / grid.top
        )
        found = float((weight.double() - grid.rounded(weight).double()).square().sum())
        assert found <= 1.15 * best


@pytest.mark.parametrize("case", hard_tensors())
def test_one_bit_and_ternary_are_those_of_their_naive_twins(case):
    """The mean size (XNOR-Net), and of the sizes above 0.7 of the mean their mean (TWN)."""
    sizes = [abs(value) for value in hard_tensors()[case].double().flatten().tolist()]
    mean = sum(sizes) / len(sizes)
    above = [size for size in sizes if size > 0.7 * mean]
    twins = {
        1: ([1] * len(sizes), mean),
        "ternary": ([int(size > 0.7 * mean) for size in sizes], sum(above) / max(1, len(above))),
    }
    for bits, (levels, scale) in twins.items():
        found, fitted = grid_of(bits).fit(hard_tensors()[case])
        assert found.abs().flatten().tolist() == levels
        assert float(fitted) == pytest.approx(scale, rel=2**-16)


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_of_zeros_keeps_nothing(bits, net):
    zeros = copy.deepcopy(net)
    nn.init.zeros_(zeros.features[1][0].weight)
    small = quantize(zeros, samples(), bits)
    assert small.record["layers"]["features.1.0.weight"]["kept"] == 0
    grid = small.record["units"] - small.record["kept"]
    assert grid == sum(
        int((baked(small.model).get_parameter(n) == 0).sum()) for n in rounded_in(small.model)
    )


def test_errors_fall_with_bits():
    weight = hard_tensors()["normal"]
    errors = [float((weight - grid_of(bits).rounded(weight)).square().mean()) for bits in BITS]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


def test_relaxed_weights_tend_to_the_grid():
    weight = hard_tensors()["normal"]
    rounded = RoundedWeight(grid_of(4), BinaryRelax(0.6))
    target = grid_of(4).rounded(weight)
    away = []
    for share in (0.0, 0.3, 0.59, 0.6, 0.9):
        with at_share(share):
            away.append(float((rounded(weight) - target).abs().max()))
    whole = float((weight - target).abs().max())
    assert away[0] == pytest.approx(whole / 2, rel=1e-5)  # eta = 1
    assert away == sorted(away, reverse=True) and away[2] < whole / 200 and away[3:] == [0, 0]
    assert torch.equal(rounded(weight), target)  # outside of training


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", quantizers())
def test_every_way_ends_on_the_grid_and_packs_exactly(name, bits, net, tmp_path):
    before = copy.deepcopy(net.state_dict())
    method = quantizers()[name]
    budget = BUDGET if method.trains else {}
    small = quantize(net, samples(), bits, method=method, **budget)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    layers = rounded_in(small.model)
    assert layers and layers.keys() == small.record["layers"].keys()
    for key, (_, original) in layers.items():
        path = key.removesuffix(".weight")
        weight = small.model.get_submodule(path).weight
        assert len(weight.unique()) <= len(grid_of(bits).levels)
        assert torch.equal(weight, grid_of(bits).rounded(original))
    file = small.save(tmp_path / "small.safetensors")
    loaded = Compressed.load(file, make())
    assert loaded.record == small.record
    plain, again = baked(small.model).state_dict(), baked(loaded.model).state_dict()
    assert plain.keys() == again.keys() == net.state_dict().keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    x = samples(10, seed=4).x
    assert torch.equal(small.model(x), loaded.model(x))


def test_first_and_last_layers_stay_but_at_8_bits(net):
    names = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert list(quantize(net, samples(), 4).record["layers"]) == [
        f"{n}.weight" for n in names[1:-1]
    ]
    assert len(quantize(net, samples(), 8).record["layers"]) == len(names)
    assert len(quantize(net, samples(), 4, layers="all").record["layers"]) == len(names)
    two = quantize(net, samples(), 4, layers=names[:2])
    assert list(two.record["layers"]) == [f"{name}.weight" for name in names[:2]]


def test_training_on_the_grid_is_better_than_rounding_afterward(net):
    data = samples(200)
    loss = nn.functional.cross_entropy
    rates = {}
    for name, method in quantizers().items():
        budget = {**BUDGET, "steps": 60} if method.trains else {}
        small = quantize(net, data, 1, method=method, layers="all", **budget)
        with torch.no_grad():
            rates[name] = float(loss(small.model(data.x), data.y))
    assert rates["binary-relax"] < rates["post-training"]
    assert rates["straight-through"] < rates["post-training"]


def _counting(monkeypatch):
    """Count how often a weight is fitted to a grid."""
    fitted = []
    fit_of = Grid.fit
    monkeypatch.setattr(Grid, "fit", lambda grid, w: fitted.append(w.shape) or fit_of(grid, w))
    return fitted


def test_a_weight_is_fitted_once_until_it_changes(monkeypatch):
    """By an optimizer, by `.data`, or by another weight in its place."""
    fitted = _counting(monkeypatch)
    layer = nn.Linear(6, 5)
    round_weight(layer, grid_of(4))
    x = torch.rand(3, 6)

    def expected():
        held = layer.parametrizations.weight.original
        return nn.functional.linear(x, grid_of(4).rounded(held), layer.bias)

    outputs = [layer(x) for _ in range(2)] + [layer.eval()(x) for _ in range(2)]
    assert len(fitted) == 1
    assert all(torch.equal(output, expected()) for output in outputs)
    held = layer.parametrizations.weight.original
    changes = (
        lambda: held.data.mul_(-1.3),
        lambda: setattr(held, "data", torch.rand(5, 6)),
        lambda: layer.load_state_dict({**layer.state_dict(), **_original(torch.rand(5, 6))}),
        lambda: layer.double() and layer.float(),
    )
    for change in changes:
        change()
        assert torch.equal(layer(x), expected())
    fitted.clear()
    layer.train()
    assert torch.equal(layer(x), layer(x)) and not fitted
    layer.eval()
    assert torch.equal(layer(x), expected())


def test_quantizing_and_saving_fit_a_weight_once_and_an_attack_in_the_loss_does_not_again(
    net, monkeypatch, tmp_path
):
    fitted = _counting(monkeypatch)
    small = quantize(net, samples(), 4, method=PostTraining())
    small.save(tmp_path / "small.safetensors")
    baked(small.model)
    layers = len(small.record["layers"])
    assert len(fitted) == layers
    fitted.clear()
    steps, loss = 5, adversarial(PGD(Linf(0.1), steps=3))
    options = {"steps": steps, "lr": 0.05, "batch_size": 20, "precision": "fp32"}
    quantize(net, samples(), 4, loss=loss, **options)
    assert len(fitted) <= layers * (steps + 2)  # one before, and one of the last step's weights


def test_a_weight_that_lies_otherwise_in_memory_is_not_taken_from_memory():
    """The last digits of a convolution depend on how its weight lies."""
    layer = nn.Conv2d(3, 4, 3)
    round_weight(layer, grid_of(4))
    for layout in (torch.channels_last, torch.contiguous_format):
        layer.to(memory_format=layout)
        assert layer.weight.is_contiguous(memory_format=layout)


@dataclass(frozen=True)
class Halves:
    """A way of a user's own: half of the budget on the weight itself, then on its grid."""

    trains: ClassVar[bool] = True

    def seen(self, weight, rounded, spent):
        return weight if spent < 0.5 else rounded


def test_a_way_of_ones_own_says_what_the_network_sees(net):
    seen = []

    def loss(model, x, y):
        seen.append(len(model.features[1][0].weight.unique()))
        return nn.functional.cross_entropy(model(x), y)

    small = quantize(net, samples(), 2, method=Halves(), loss=loss, **BUDGET)
    steps = len(seen) // 2
    assert min(seen[:steps]) > 4 >= max(seen[steps:])
    assert len(small.model.features[1][0].weight.unique()) <= 4
    assert "Halves" in small.record["method"]


def test_whether_a_way_trains_is_no_setting():
    for odd in (
        lambda: PostTraining(relaxed=0.5),
        lambda: BinaryRelax(trains=False),
        lambda: StraightThrough(relaxed=0.1),
    ):
        with pytest.raises(TypeError):
            odd()


def _original(weight):
    return {"parametrizations.weight.original": weight}


def test_the_memory_of_a_grid_is_no_part_of_the_network(net):
    """Copies and state dicts are those of a network that has not run, and a pass after one in
    inference mode has gradients. torch pickles no parametrized network, but its parametrizations.
    """
    small = quantize(net, samples(64), bits=4, method=PostTraining()).model
    x = samples(4).x
    keys = set(small.state_dict())
    with torch.inference_mode():
        output = small(x).clone()
    assert set(small.state_dict()) == keys
    for rounded, held in rounded_in(small).values():
        kept = pickle.dumps(rounded)
        assert len(kept) == len(pickle.dumps(RoundedWeight(rounded.grid).eval()))
        assert torch.equal(pickle.loads(kept)(held), rounded(held))
    for each in (copy.deepcopy(small), small):
        each.zero_grad()
        seen = each(x)
        assert torch.equal(seen, output)
        seen.sum().backward()
        assert all(held.grad is not None for _, held in rounded_in(each).values())


def test_gradients_pass_straight_through(net):
    small = quantize(net, samples(), "ternary").model
    loss = nn.functional.cross_entropy(small(samples().x), samples().y)
    loss.backward()
    plain = baked(small)
    nn.functional.cross_entropy(plain(samples().x), samples().y).backward()
    for key, (_, original) in rounded_in(small).items():
        layer = plain.get_submodule(key.removesuffix(".weight"))
        torch.testing.assert_close(original.grad, layer.weight.grad)


def test_curves_and_further_training_see_the_quantized_network(net):
    one = quantize(net, samples(), 4).model
    other = copy.deepcopy(one)
    fit(other, samples(40, seed=2), steps=10, lr=0.05, batch_size=40, precision="fp32")
    curve = Bezier(one, other)
    fit(curve, samples(), steps=3, lr=0.01, batch_size=40, precision="fp32")
    for t in (0.0, 0.4, 1.0):
        point = curve.export(t)
        for key in rounded_in(point):
            weight = point.get_submodule(key.removesuffix(".weight")).weight
            assert torch.equal(grid_of(4).rounded(weight), weight)
    assert PGD(Linf(0.1), steps=3)(other, samples().x, samples().y).shape == samples().x.shape


@pytest.mark.parametrize("steps", [7, 17])
@pytest.mark.parametrize("method", [BinaryRelax(), StraightThrough()])
def test_a_run_that_is_cut_off_goes_on_to_the_same_network(
    method, steps, net, tmp_path, monkeypatch
):
    """Before and after the weights are on the grid: the share that is spent is of the whole run."""
    often = functools.partial(fit, checkpoint_every=5)
    monkeypatch.setattr(compression.quantization.run, "fit", often)

    def run(folder, left):
        options = {"method": method, "loss": Fragile([left]), **BUDGET}
        small = quantize(net, samples(), "ternary", checkpoint=tmp_path / folder, **options)
        return small.model.state_dict()

    whole = run("whole", 1000)
    with pytest.raises(Stopped):
        run("cut", steps)
    resumed = run("cut", BUDGET["steps"] - steps // 5 * 5)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("levels", [2, 3, 4, 15, 255])
@pytest.mark.parametrize("size", [0, 1, 5, 8, 1001])
def test_codes_are_packed_exactly(levels, size):
    codes = torch.randint(0, levels, (size,), generator=torch.Generator().manual_seed(size))
    packed = pack_codes(codes, levels)
    each = {2: 8, 3: 5, 4: 4, 15: 2, 255: 1}[levels]
    assert packed.dtype == torch.uint8 and len(packed) == -(-size // each)
    assert torch.equal(unpack_codes(packed, levels, (size,)), codes)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
def test_masks_are_packed_exactly(density):
    generator = torch.Generator().manual_seed(1)
    value = torch.randn(60, 70, generator=generator)
    mask = torch.rand(60, 70, generator=generator) < density
    parts = pack_mask(value * mask, mask)
    assert sum(p.nbytes for p in parts.values()) <= 4 * int(mask.sum()) + 60 * 70 / 8
    again, on = unpack_mask(parts, (60, 70))
    assert torch.equal(on, mask) and torch.equal(again, value * mask)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("bits", BITS)
def test_levels_are_packed_exactly_and_zeros_without_codes_where_that_is_smaller(bits, density):
    grid, generator = grid_of(bits), torch.Generator().manual_seed(2)
    weight = torch.randn(70, 60, generator=generator)
    level, scale = grid.fit(weight * (torch.rand(70, 60, generator=generator) < density))
    parts = pack_grid(level.to(torch.int8), scale.float(), grid.levels)
    assert torch.equal(unpack_grid(parts, grid.levels, (70, 60)), (level * scale).float())
    share = {1: 1, "ternary": 1.6}.get(bits, bits) / 8
    stay, most = int(level.count_nonzero()), len(weight.flatten())
    size = sum(part.nbytes for part in parts.values())
    assert size <= min(most * share, stay * share + min(most / 8, 1.2 * stay + 20) + 150) + 8


@pytest.mark.parametrize("layers", ["all", "inner"])
def test_rounding_makes_the_file_of_a_pruned_network_smaller(layers, tmp_path):
    """Also where the first and the last layer are not rounded, and nothing holds their zeros."""
    torch.manual_seed(0)
    wide = nn.Sequential(
        *(nn.Flatten(), nn.Linear(36, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()),
        nn.Linear(100, 3),
    )
    for weight in wide.parameters():  # so that all layers keep as much
        nn.init.normal_(weight, std=0.1)
    few = prune(wide, samples(), 0.1)
    files = {"pruned": few.save(tmp_path / "pruned.safetensors")}
    for bits in (8, 4, "ternary"):
        small = quantize(baked(few.model), samples(), bits, layers=layers)
        files[bits] = small.save(tmp_path / f"{bits}.safetensors")
        loaded = Compressed.load(files[bits], wide)
        assert torch.equal(loaded.model(samples().x), small.model(samples().x))
    sizes = [file.stat().st_size for file in files.values()]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_zeros_that_nothing_holds_are_packed_exactly(kind):
    value = torch.zeros(60, 70, dtype=kind)
    value[::7, ::5] = torch.randn(9, 14).to(kind)
    value[1, 1] = -0.0
    parts = pack_zeros(value)
    assert sum(part.nbytes for part in parts.values()) < value.nbytes / 4
    again, _ = unpack_mask(parts, (60, 70))
    assert torch.equal(again, value) and torch.equal(again.signbit(), value.signbit())
    assert pack_zeros(torch.ones(60, 70)) is None and pack_zeros(torch.zeros(3)) is None


def test_files_are_as_small_as_their_bits(tmp_path):
    torch.manual_seed(0)
    wide = nn.Sequential(
        *(nn.Flatten(), nn.Linear(36, 300, bias=False), nn.ReLU()),
        *(nn.Linear(300, 300, bias=False), nn.ReLU(), nn.Linear(300, 3, bias=False)),
    )
    weights = 36 * 300 + 300 * 300 + 900
    sizes = {}
    for bits in BITS:
        small = quantize(wide, samples(), bits, layers="all")
        sizes[bits] = small.save(tmp_path / f"{bits}.st").stat().st_size
        share = {1: 1, "ternary": 1.6}.get(bits, bits)
        assert sizes[bits] <= weights * share / 8 + 4096
    dense = save_checkpoint(wide, tmp_path / "dense.st").stat().st_size
    assert dense > 20 * sizes[1]


FRESH = """
import sys
import pickle
def refuse(*a, **k): raise SystemExit("a pickle was read")
pickle.loads = pickle.load = pickle.Unpickler = refuse
import torch
torch.load = refuse
from isthmus.compression import Compressed
from isthmus.models import small_cnn
for name in ("quantized", "pruned"):
    loaded = Compressed.load(f"{sys.argv[1]}/{name}.safetensors", small_cnn(3, 1, 4))
    x = torch.linspace(0, 1, 72).reshape(2, 1, 6, 6)
    print(repr(loaded.model(x).flatten().tolist()))
"""


def test_a_fresh_process_reads_the_files_without_pickles(net, tmp_path):
    small = {"quantized": quantize(net, samples(), 4)}
    small["pruned"] = prune(net, samples(), 0.5, "channels")
    x = torch.linspace(0, 1, 72).reshape(2, 1, 6, 6)
    for name, one in small.items():
        one.save(tmp_path / f"{name}.safetensors")
    command = [sys.executable, "-c", FRESH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    with torch.no_grad():
        told = [one.model(x).flatten() for one in small.values()]
    for line, values in zip(lines, told, strict=True):
        shown = torch.tensor([float(word) for word in line.strip("[]").split(",")])
        torch.testing.assert_close(shown, values, rtol=1e-5, atol=1e-6)


def test_the_same_network_gives_the_same_file(net, tmp_path):
    small = quantize(net, samples(), 4)
    one, other = (small.save(tmp_path / name).read_bytes() for name in ("a.st", "b.st"))
    assert one == other


@pytest.mark.parametrize("seconds", [0.0, 9.5, 123.45678901234567, 1.2345678901234567e-05])
def test_no_clock_decides_how_large_a_file_is(seconds, net, tmp_path):
    """Its size is a figure of a report, which two runs of one command have in common."""
    small = quantize(net, samples(), 4)
    sizes = []
    for taken in (1.0, seconds):
        small.record["seconds"] = taken
        file = small.save(tmp_path / f"{taken}.st")
        assert Compressed.load(file, make()).record["seconds"] == taken
        sizes.append(file.stat().st_size)
    assert sizes[0] == sizes[1]


def test_a_compressed_record_as_a_checkpoint_is_refused_with_the_way_out(net, tmp_path):
    """Its plain twin, which the command line writes beside it, or `Compressed.load`."""
    small = quantize(net, samples(64), bits=4, method=PostTraining())
    file = small.save(tmp_path / "compressed.safetensors")
    for read in (load_checkpoint, lambda path: load_checkpoint(path, make())):
        message = refused(lambda: read(file), "compressed record")  # noqa: B023
        assert "Compressed.load" in message
    save_checkpoint(baked(small.model), tmp_path / "network.safetensors")
    assert str(tmp_path / "network.safetensors") in refused(lambda: load_checkpoint(file), "record")
    load_checkpoint(tmp_path / "network.safetensors", make())


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("bits", BITS)
def test_weights_that_are_not_finite_are_refused(bits, number, net):
    lost = copy.deepcopy(net)
    with torch.no_grad():
        lost.head.weight[0, 0] = number
    for layers in ("all", "inner"):
        refused(
            lambda layers=layers: quantize(lost, samples(), bits, layers=layers),
            "head.weight with numbers that are NaN",
        )
    refused(lambda: prune(lost, samples(), 0.5), "head.weight with numbers that are NaN")
    assert not grid_of(bits).rounded(lost.head.weight).isfinite().all()  # so the loss says so


@pytest.mark.parametrize("bits", BITS)
def test_a_training_that_diverges_is_refused_for_its_loss(bits):
    torch.manual_seed(0)
    parts = [nn.Linear(36, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32)]
    model = nn.Sequential(nn.Flatten(), *parts, nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    wild = {"steps": 8, "lr": 1e9, "batch_size": 32, "precision": "fp32"}
    refused(lambda: quantize(model, samples(), bits, **wild), "lower lr")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_in_16_bits_are_refused(kind, net):
    """Rounding twice would not be rounding once: a level times a scale is rounded there."""
    short = copy.deepcopy(net).to(kind)
    refused(lambda: quantize(short, samples(), 4), str(kind), "network.float()")
    later = quantize(net, samples(), 4).model.to(kind)
    refused(lambda: later(samples().floats().to(kind)), str(kind))
    assert quantize(copy.deepcopy(net).double(), samples(), 4).record["units"]


def test_bad_input_is_refused(net):
    for bits in (3, "binary", True, 32, [4], 4.0, None):
        refused(lambda bits=bits: quantize(net, samples(), bits), "bits")
    refused(lambda: quantize(net, samples(), 4, method=BinaryRelax()), "BinaryRelax", "budget")
    refused(lambda: quantize(net, samples(), 4, method=PostTraining(), **BUDGET), "budget")
    refused(lambda: quantize(net, samples(), 4, method=StraightThrough(), lr=0.1), "no steps")
    refused(lambda: quantize(net, samples(), 4, layers=["heads"]), "heads", "head")
    refused(lambda: quantize(net, samples(), 4, layers="head"), "'head'", "layers=['head']")
    refused(lambda: quantize(net, samples(), 4, layers="outer"), "'outer'", '"all"')
    refused(lambda: quantize(net, samples(), 4, layers=["head", "head"]), "'head' twice")
    for layers in ([], 5, iter(["head"])):
        refused(lambda layers=layers: quantize(net, samples(), 4, layers=layers), "layers = ")
    refused(lambda: quantize(net, samples(), 4, layers=[5]), "layer 5")
    for method in ("binary-relax", 5, BinaryRelax, Magnitude()):
        refused(lambda method=method: quantize(net, samples(), 4, method=method), "quantizers()")
    for odd in (None, 5):
        refused(lambda odd=odd: quantize(odd, samples(), 4), type(odd).__name__)
    for relaxed in (1.0, "x"):
        refused(lambda relaxed=relaxed: BinaryRelax(relaxed=relaxed), "relaxed")
    masked = prune(net, samples(), 0.5).model
    for bits, words in ((4, "zeros stay until"), ("ternary", "zeros stay until"), (2, "no 0")):
        refused(lambda bits=bits: quantize(masked, samples(), bits), "pruned", words)
    two = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))
    refused(lambda: quantize(two, samples(), 4, layers="inner"), "inner")
