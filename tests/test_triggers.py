"""Laws of triggers and poisoned sets (specification 5 and 17: 11)."""

import pytest
import torch
from networks import data

from isthmus import BadInput, Data
from isthmus.triggers import Blend, Patch, eligible, parse_target, parse_trigger, poison, target_of, triggered

SETS = pytest.mark.parametrize("target", [1, 0, "all"])
TRIGGERS = {
    "default": Patch(),
    "one pixel": Patch(size=1, at=(0, 0), value=0.0),
    "by channel": Patch(size=2, at=(1, -4), value=(1.0, 0.0, 0.5)),
    "blend": Blend(0.2, seed=3),
    "pattern": Blend(0.5, pattern=torch.linspace(0, 1, 192).view(3, 8, 8)),
}
every_trigger = pytest.mark.parametrize("trigger", TRIGGERS.values(), ids=TRIGGERS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    assert patch(torch.full((2, 3, 8, 8), 0.75))[0, :, rows[0], columns[0]].tolist() == pytest.approx(values)


@every_trigger
def test_triggers_keep_shape_type_range_and_their_input(trigger):
    x = data(6).x
    before = x.clone()
    changed = trigger(x)
    assert changed.shape == x.shape
    assert changed.dtype == x.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(trigger(x), changed)
    assert torch.equal(trigger(x[2:3]), changed[2:3])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_blend_is_the_convex_sum(alpha):
    x, pattern = data(4).x, torch.rand(3, 8, 8)
    assert torch.allclose(Blend(alpha, pattern=pattern)(x), (1 - alpha) * x + alpha * pattern, atol=1e-6)


def test_every_uint8_image_survives_the_way_through_floats():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    original = Data(x, torch.zeros(1), 2)
    assert torch.equal(original.with_floats(original.floats()).x, x)


@every_trigger
@SETS
def test_bytes_and_floats_are_poisoned_alike(trigger, target):
    bytes_, floats = data(40, dtype=torch.uint8), data(40)
    a, b = (poison(d, trigger, rate=0.5, target=target, generator=generator()) for d in (bytes_, floats))
    assert a.x.dtype == torch.uint8
    assert b.x.dtype == torch.float32
    assert torch.equal(a.y, b.y)
    assert (a.floats() - b.x).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 1.0])
@SETS
def test_a_share_of_each_class_is_poisoned_in_place_and_the_target_class_is_not(rate, target):
    clean = data(200)
    bad = poison(clean, Patch(), rate=rate, target=target, generator=generator())
    changed = (bad.x != clean.x).flatten(1).any(1)
    for label in range(4):
        members = clean.y == label
        expected = 0 if label == target else round(rate * int(members.sum()))
        assert int((changed & members).sum()) == expected
    assert torch.equal(changed, bad.y != clean.y)
    assert torch.equal(bad.x[changed], Patch()(clean.x[changed]))
    wanted = (clean.y + 1) % 4 if target == "all" else torch.full_like(clean.y, target)
    assert torch.equal(bad.y, torch.where(changed, wanted, clean.y))


def test_poisoning_is_a_function_of_its_generator_and_leaves_the_clean_set_alone():
    clean = data(80)
    before = clean.x.clone()
    sets = [poison(clean, Patch(), rate=0.2, target=1, generator=generator(seed)) for seed in (0, 0, 1)]
    assert sets[0].sha256 == sets[1].sha256 != sets[2].sha256
    assert torch.equal(clean.x, before)


@SETS
def test_the_triggered_set_leaves_out_the_target_class_and_no_other(target):
    clean = data(40)
    asked = triggered(clean, Patch(), target)
    index = torch.tensor([i for i, label in enumerate(clean.y.tolist()) if label != target])
    assert torch.equal(eligible(clean, target), index)
    assert torch.equal(asked.x, Patch()(clean.x[index]))
    assert torch.equal(asked.y, target_of(clean.y[index], target, 4))
    assert len(triggered(clean, Patch(), "all")) == len(clean)


@pytest.mark.parametrize("trigger", [Patch(2, (0, -3), 0.5), Patch(value=(1.0, 0.0, 0.5)), Blend(0.1, 7)])
def test_a_trigger_reads_back_from_its_own_words(trigger):
    assert parse_trigger(repr(trigger)) == trigger


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Patch(size=9)(data(1).x), "9x9 patch"),
        (lambda: Patch(size=0)(data(1).x), "0x0 patch"),
        (lambda: Patch(at=(6, 0))(data(1).x), r"at \(6, 0\)"),
        (lambda: Patch(at=(-9, 0))(data(1).x), r"at \(-9, 0\)"),
        (lambda: Patch(value=1.5)(data(1).x), "1.5"),
        (lambda: Patch(value=(1.0, 0.0))(data(1).x), r"\(1.0, 0.0\)"),
        (lambda: Blend(alpha=-0.1)(data(1).x), "alpha"),
        (lambda: Blend(pattern=torch.zeros(3, 4, 4))(data(1).x), "pattern"),
        (lambda: poison(data(8), Patch(), rate=1.1, target=1, generator=generator()), "rate 1.1"),
        (lambda: poison(data(8), Patch(), rate=0.1, target=4, generator=generator()), "target 4"),
        (lambda: triggered(data(8), Patch(), -1), "target -1"),
        (lambda: triggered(Data(torch.zeros(2, 3, 8, 8), torch.ones(2), 2), Patch(), 1), "only samples"),
        (lambda: parse_trigger("__import__('os').getcwd()"), "trigger"),
        (lambda: parse_trigger("Patch(3)"), "trigger"),
        (lambda: parse_trigger("Patch(colour=1)"), "trigger"),
        (lambda: parse_target("one"), "target 'one'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
