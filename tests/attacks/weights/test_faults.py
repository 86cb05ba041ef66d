"""Bit flips: exactly the bits that were named, in every format; and networks that stay networks."""

import copy
import struct

import pytest
import torch
from support.networks import ZOO, data, network
from support.refusals import refused
from torch import nn

from isthmus.attacks import BitFlips
from isthmus.attacks.weights.bit_flips import encoded, flipped
from isthmus.models import load_checkpoint, save_checkpoint

WIDTHS = {"float32": 32, "bf16": 16, "int8": 8}
INTEGERS = {"float32": torch.int32, "bf16": torch.int16, "int8": torch.int8}


def weights(seed=0):
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("format", WIDTHS)
def test_a_flip_flips_exactly_that_bit_and_twice_flips_back(format):
    stored, _ = encoded(weights(), format)
    width = WIDTHS[format]
    for element in (0, 7, 14):
        for bit in range(width):
            once = flipped(stored, [element * width + bit])
            before, after = (
                each.view(INTEGERS[format]).flatten().tolist() for each in (stored, once)
            )
            expected = [
                (b ^ (1 << bit)) % 2**width if i == element else b % 2**width
                for i, b in enumerate(before)
            ]
            assert [b % 2**width for b in after] == expected
            assert torch.equal(
                flipped(once, [element * width + bit]).view(torch.uint8), stored.view(torch.uint8)
            )


def test_a_flip_is_what_the_format_says():
    one = torch.tensor([1.0])
    (raw,) = struct.unpack("<I", struct.pack("<f", 1.0))
    for bit in range(32):
        (expected,) = struct.unpack("<f", struct.pack("<I", raw ^ (1 << bit)))
        assert float(flipped(one, [bit])) == expected or bit == 30
    assert torch.isinf(
        flipped(one, [30])
    ).all()  # the highest bit of the exponent of 1 makes infinity
    stored, scale = encoded(torch.tensor([0.5, -1.0]), "int8")
    assert stored.tolist() == [64, -127] and scale == pytest.approx(1 / 127)
    assert flipped(stored, [6, 8 + 7]).tolist() == [0, 1]


@pytest.mark.parametrize("format", WIDTHS)
def test_all_bits_of_all_tensors_are_in_reach_and_the_count_is_exact(format):
    net = nn.Linear(3, 2, bias=True).requires_grad_(False)
    faulty = BitFlips(rate=1.0, format=format, clamp=True)(net)
    assert faulty.flips == faulty.bits == 8 * WIDTHS[format] and faulty.size == 8
    assert BitFlips(0, format="float32")(net).changed == 0
    for seed in range(5):
        some = BitFlips(3, format=format, clamp=True, seed=seed)(net)
        assert some.flips == 3 and some.changed <= 3


def test_without_flips_a_format_only_rounds():
    net = network("batchnorm")
    for format, error in (("float32", 0.0), ("bf16", 2**-8), ("int8", 1 / 127)):
        after = dict(BitFlips(0, format=format)(net).network.named_parameters())
        for name, p in net.named_parameters():
            assert (after[name] - p).abs().max() <= error * p.abs().max()


@pytest.mark.parametrize("kind", ZOO)
def test_every_network_bears_faults_and_is_loaded_again(kind, tmp_path):
    net = network(kind)
    before = copy.deepcopy(net.state_dict())
    faulty = BitFlips(rate=1e-3, format="bf16", clamp=True, seed=3)(net)
    assert (
        all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and faulty.changed > 0
    )
    save_checkpoint(faulty.network, tmp_path / "faulty.safetensors")
    again = load_checkpoint(tmp_path / "faulty.safetensors", network(kind, 1))
    with torch.no_grad():
        assert torch.isfinite(again(data(4).x)).all()


def test_the_seed_decides_and_named_layers_alone_suffer():
    net = network("batchnorm")
    one, two, other = (
        BitFlips(9, layers=("9",), seed=seed, format="int8")(net).network for seed in (0, 0, 1)
    )
    assert torch.equal(one[9].weight, two[9].weight) and not torch.equal(
        one[9].weight, other[9].weight
    )
    assert torch.equal(one[0].weight, net[0].weight)


def test_weights_that_leave_the_numbers_are_refused_or_clamped():
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    seed = next(
        s for s in range(1000) if BitFlips(1, seed=s)._drawn({"weight": 32})["weight"] == [30]
    )
    refused(lambda: BitFlips(1, seed=seed)(net), "1 weights that the flips made NaN or infinite")
    clamped = BitFlips(1, seed=seed, clamp=True)(net)
    assert clamped.network.weight.item() == 1 and clamped.clamped == 1 and clamped.largest == 1


def test_impossible_faults_are_refused():
    net = nn.Linear(2, 2)
    refused(lambda: BitFlips(), "one of them")
    refused(lambda: BitFlips(1, rate=0.5), "one of them")
    refused(lambda: BitFlips(rate=1.5), "rate")
    refused(lambda: BitFlips(-1), "-1 flips")
    refused(lambda: BitFlips(1, format="fp4"), "fp4")
    refused(lambda: BitFlips(49, format="int8")(net), "48 at most")
    refused(lambda: BitFlips(1, layers=("wieght",))(net), "wieght", "weight")
