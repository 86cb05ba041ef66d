"""Naive twins of the triggers' formulas."""

from math import pi, sin

import pytest
import scipy.fft
import torch
from support.networks import data

from isthmus import BadInput, Data
from isthmus.attacks import Blend, LowFrequency, Patch, Sinusoid, Warp
from isthmus.cli.words import parse_target, parse_trigger


@pytest.mark.parametrize("channels", [1, 3])
def test_the_default_trigger_is_white_on_rows_and_columns_28_to_30_alone(channels):
    x = torch.rand(5, channels, 32, 32) * 0.9
    changed = Patch()(x)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[28:31, 28:31] = True
    assert (changed[..., inside] == 1).all()
    assert torch.equal(changed[..., ~inside], x[..., ~inside])


@pytest.mark.parametrize(
    ("patch", "rows", "columns", "values"),
    [
        (Patch(size=2, at=(0, 0)), (0, 1), (0, 1), [1.0, 1.0, 1.0]),
        (Patch(size=2, at=(-2, 3), value=0.25), (6, 7), (3, 4), [0.25] * 3),
        (Patch(size=1, at=(4, -8), value=(0.1, 0.2, 0.3)), (4, 4), (0, 0), [0.1, 0.2, 0.3]),
        (Patch(size=8, at=(0, 0), value=0.5), (0, 7), (0, 7), [0.5] * 3),
    ],
)
def test_a_patch_stands_where_it_is_told(patch, rows, columns, values):
    changed = patch(torch.full((2, 3, 8, 8), 0.75)) != 0.75
    where = changed.nonzero()
    assert (where[:, 2].min(), where[:, 2].max()) == rows
    assert (where[:, 3].min(), where[:, 3].max()) == columns
    assert patch(torch.full((2, 3, 8, 8), 0.75))[
        0, :, rows[0], columns[0]
    ].tolist() == pytest.approx(values)


@pytest.mark.parametrize(("height", "width"), [(3, 8), (6, 5)])
def test_the_sinusoid_is_its_formula(height, width):
    x = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))
    changed = Sinusoid(0.3, frequency=2)(x)
    for n in range(2):
        for i in range(height):
            for j in range(width):
                wanted = min(
                    1.0, max(0.0, float(x[n, 0, i, j]) + 0.3 * sin(2 * pi * j * 2 / width))
                )
                assert float(changed[n, 0, i, j]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("cutoff", [2, 3, 5])
def test_the_smooth_pattern_holds_the_lowest_cosines_without_their_mean_at_the_size_asked(
    cutoff, norm
):
    pattern = LowFrequency(0.4, cutoff, norm, seed=3).drawn(3, 7, 9)
    spectrum = torch.from_numpy(scipy.fft.dctn(pattern.numpy(), axes=(1, 2), norm="ortho"))
    inside = torch.zeros(7, 9, dtype=torch.bool)
    inside[:cutoff, :cutoff] = True
    inside[0, 0] = False
    assert (spectrum[:, ~inside].abs() < 1e-12).all()
    assert (spectrum[:, inside].abs() > 1e-6).all()
    assert float(pattern.abs().max() if norm == "linf" else pattern.norm()) == pytest.approx(0.4)


def _read(image: torch.Tensor, row: float, column: float) -> float:
    """The image between its pixels, by hand: the weighted mean of the four around."""
    height, width = image.shape
    total = 0.0
    for i in range(height):
        for j in range(width):
            total += max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j)) * float(image[i, j])
    return total


def test_the_warp_reads_each_pixel_at_its_grid_and_colors_move_together():
    x, warp = (
        torch.rand(2, 2, 5, 4, generator=torch.Generator().manual_seed(0)),
        Warp(3, strength=1.5, seed=4),
    )
    changed, grid = warp(x), warp.grid(5, 4)
    for n in range(2):
        for c in range(2):
            for i in range(5):
                for j in range(4):
                    across, down = grid[i, j].tolist()
                    wanted = _read(x[n, c], (down + 1) / 2 * 4, (across + 1) / 2 * 3)
                    assert float(changed[n, c, i, j]) == pytest.approx(wanted, abs=1e-5)


def test_a_pixel_moves_by_a_quarter_of_one_on_average_at_the_strength_of_the_paper():
    moved = []
    for seed in range(20):
        grid, still = Warp(seed=seed).grid(32, 32), Warp(strength=0.0).grid(32, 32)
        assert grid.abs().max() <= 1
        moved.append((grid - still).abs().mean() * 31 / 2)
    assert 0.15 < float(torch.stack(moved).mean()) < 0.3


def test_noise_is_another_for_every_image_and_stays_within_its_size():
    x = data(3).x
    still, shaken = Warp(strength=0.0), Warp(strength=0.0, noise=1.0)
    ramp = torch.linspace(0, 1, 8).expand(2, 1, 8, 8).clone()  # column j reads j / 7
    ramp[1, 0, 0, 0] = 0.5  # another image
    moved = (shaken(ramp) - still(ramp))[:, 0, 2:] * 7
    assert not torch.allclose(moved[0], moved[1])
    assert (
        0.2 < moved.abs().max() <= 7 / 16 + 1e-4
    )  # 1 / 8 of a side that is 2 long and 7 pixels wide
    assert not torch.equal(shaken(x), Warp(strength=0.0, noise=1.0, seed=1)(x))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_blend_is_the_convex_sum(alpha):
    x, pattern = data(4).x, torch.rand(3, 8, 8)
    assert torch.allclose(
        Blend(alpha, pattern=pattern)(x), (1 - alpha) * x + alpha * pattern, atol=1e-6
    )


def test_every_uint8_image_survives_the_way_through_floats():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    original = Data(x, torch.zeros(1), 2)
    assert torch.equal(original.with_floats(original.floats()).x, x)


@pytest.mark.parametrize(
    "trigger",
    [
        Patch(2, (0, -3), 0.5),
        Patch(value=(1.0, 0.0, 0.5)),
        Blend(0.1, 7),
        Sinusoid(0.25, 3),
        LowFrequency(0.3, 5, "l2", 1),
        Warp(3, 1.5, 0.5, 2),
    ],
)
def test_a_trigger_reads_back_from_its_own_words(trigger):
    assert parse_trigger(repr(trigger)) == trigger


def test_lists_name_the_same_patch_as_tuples():
    assert parse_trigger("patch(at=[0, 1], value=[0.5])") == Patch(at=(0, 1), value=(0.5,))
    assert parse_trigger(" low_frequency ") == parse_trigger("LOWFREQUENCY()") == LowFrequency()


def test_the_error_lists_every_trigger_and_its_settings():
    with pytest.raises(BadInput) as caught:
        parse_trigger("sticker")
    for word in (
        "Patch(size=, at=, value=)",
        "Blend(alpha=, seed=)",
        "Sinusoid(",
        "LowFrequency(",
        "Warp(control=",
    ):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Patch(size=9)(data(1).x), "9x9 patch"),
        (lambda: Patch(size=0), "0x0 patch"),
        (lambda: Patch(size="3"), "3x3 patch"),
        (lambda: Patch(at=3), "a patch at 3"),
        (lambda: Patch(at=(1.5, 0)), r"at \(1.5, 0\)"),
        (lambda: Patch(at=(0, 0, 0)), "at"),
        (lambda: Patch(at=(6, 0))(data(1).x), r"at \(6, 0\)"),
        (lambda: Patch(at=(-9, 0))(data(1).x), r"at \(-9, 0\)"),
        (lambda: Patch(value=1.5), "1.5"),
        (lambda: Patch(value="white"), "white"),
        (lambda: Patch(value=(1.0, 0.0))(data(1).x), r"\(1.0, 0.0\)"),
        (lambda: Blend(alpha=-0.1), "alpha"),
        (lambda: Blend(alpha="much"), "much"),
        (lambda: Blend(pattern=torch.zeros(3, 4, 4))(data(1).x), "pattern"),
        (lambda: Sinusoid(delta=2.0), "delta = 2.0"),
        (lambda: Sinusoid(frequency=1.5), "frequency = 1.5"),
        (lambda: Sinusoid(frequency=4)(data(1).x), "4 periods over 8 pixels"),
        (lambda: LowFrequency(size=1.5), "size = 1.5"),
        (lambda: LowFrequency(size=float("nan")), "size = nan"),
        (lambda: LowFrequency(norm="l1"), "norm 'l1'"),
        (lambda: LowFrequency(cutoff=1), "cutoff = 1"),
        (lambda: LowFrequency(cutoff=9)(data(1).x), "cutoff of 9"),
        (lambda: LowFrequency(pattern=torch.zeros(3, 4, 4))(data(1).x), "pattern"),
        (lambda: Warp(control=1), "control = 1"),
        (lambda: Warp(strength=-1), "strength = -1"),
        (lambda: Warp(noise=True), "noise = True"),
        (lambda: parse_trigger("Patch(at=3)"), "a patch at 3"),
        (lambda: parse_trigger("__import__('os').getcwd()"), "trigger"),
        (lambda: parse_trigger("Patch(3)"), "trigger"),
        (lambda: parse_trigger("Patch(size=" + "-" * 100_000 + "3)"), "trigger"),
        (lambda: parse_trigger("Patch(color=1)"), "trigger"),
        (lambda: parse_target("one"), "target 'one'"),
        (lambda: parse_target("9" * 5000), "target '9999"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
