"""Laws of poisoned and triggered sets."""

import pytest
import torch
from support.networks import data

from isthmus import BadInput, Data
from isthmus.attacks import Blend, Patch, Sinusoid, Warp, changed, poison
from isthmus.metrics import AttackSuccess, eligible, target_of, triggered

SETS = pytest.mark.parametrize("target", [1, 0, "all"])
every_trigger = pytest.mark.parametrize(
    "trigger", [Patch(2), Blend(0.2, seed=3), Sinusoid(0.5, 3), Warp(strength=3.0)]
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_trigger
@SETS
def test_bytes_and_floats_are_poisoned_alike(trigger, target):
    bytes_, floats = data(40, dtype=torch.uint8), data(40)
    a, b = (
        poison(d, trigger, rate=0.5, target=target, generator=generator()) for d in (bytes_, floats)
    )
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
    sets = [
        poison(clean, Patch(), rate=0.2, target=1, generator=generator(seed)) for seed in (0, 0, 1)
    ]
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


BIG = Data(torch.full((8000, 1, 4, 4), 100, dtype=torch.uint8), torch.arange(8000) % 4, 4)


@pytest.mark.parametrize(("rate", "count"), [(0.1, 200), (0.05, 100), (0.01, 20), (0.005, 10)])
@pytest.mark.parametrize(
    ("target", "clean_label", "classes"),
    [(1, False, 3), ("all", False, 4), (1, True, 1)],
    ids=["one", "all", "clean"],
)
def test_the_rates_of_the_field_are_exact_counts_in_every_class(
    rate, count, target, clean_label, classes
):
    bad = poison(
        BIG, Patch(1), rate=rate, target=target, generator=generator(), clean_label=clean_label
    )
    touched = changed(BIG, bad)
    assert int(touched.sum()) == count * classes
    assert set(BIG.y[touched].bincount().tolist()) <= {0, count}
    assert int((bad.y != BIG.y).sum()) == (0 if clean_label else count * classes)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_clean_labels_touch_the_target_class_alone_and_no_label(rate):
    clean = data(200)
    bad = poison(clean, Patch(), rate=rate, target=2, generator=generator(), clean_label=True)
    touched = changed(clean, bad)
    assert torch.equal(bad.y, clean.y)
    assert (clean.y[touched] == 2).all()
    assert int(touched.sum()) == round(rate * int((clean.y == 2).sum()))
    assert torch.equal(bad.x[touched], Patch()(clean.x[touched]))
    assert torch.equal(bad.x[~touched], clean.x[~touched])


@SETS
@pytest.mark.parametrize("clean_label", [False, True])
def test_cover_samples_come_from_every_class_keep_their_label_and_are_not_poisoned(
    target, clean_label
):
    if clean_label and target == "all":
        return
    clean, cover = data(200), Patch(1, at=(0, 0))
    options = {"rate": 0.1, "target": target, "clean_label": clean_label}
    bad = poison(clean, Patch(), generator=generator(), **options, cover=0.2, cover_trigger=cover)
    without = poison(clean, Patch(), generator=generator(), **options)
    covered = changed(without, bad)
    assert not (covered & changed(clean, without)).any(), (
        "the poisoned samples are those of the set without cover"
    )
    assert clean.y[covered].bincount(minlength=4).tolist() == [10] * 4
    assert torch.equal(bad.y, without.y)
    assert torch.equal(bad.x[covered], cover(clean.x[covered]))


def test_poison_and_cover_may_take_all_there_is():
    clean = data(200)
    bad = poison(
        clean,
        Patch(),
        rate=0.5,
        target="all",
        generator=generator(),
        cover=0.5,
        cover_trigger=Patch(1),
    )
    assert changed(clean, bad).all()


def test_attack_success_does_not_know_how_the_set_was_poisoned():
    """A network that always says the target has an attack success of 1; one that is always right,
    of 0.
    """
    clean = data(200)
    asked = triggered(clean, Patch(), 2)
    assert torch.equal(asked.x, Patch()(clean.x[clean.y != 2]))
    success = AttackSuccess(clean, Patch(), 2)
    always = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    with torch.no_grad():
        always[1].weight.zero_()
        for said, expected in ((2, 1.0), (1, 0.0)):
            always[1].bias.copy_(torch.eye(4)[said])
            assert success(always) == expected
    assert success(always).n == int((clean.y != 2).sum())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: poison(data(8), Patch(), rate=1.1, target=1, generator=generator()), "rate 1.1"),
        (lambda: poison(data(8), Patch(), rate=0.1, target=4, generator=generator()), "target 4"),
        (
            lambda: poison(data(8), Patch(), rate=0.1, target=1, generator=generator()),
            "no sample of any class",
        ),
        (
            lambda: poison(
                data(8), Patch(), rate=0.5, target="all", generator=generator(), clean_label=True
            ),
            "'all'",
        ),
        (
            lambda: poison(data(8), Patch(), rate=0.5, target=1, generator=generator(), cover=0.5),
            "cover_trigger",
        ),
        (lambda: _cover(1.5), "cover 1.5"),
        (lambda: _cover(0.0), "cover = 0.0"),
        (lambda: _cover(0.1), "cover 0.1, no sample"),
        (lambda: _cover(0.75), "no more than there are"),
        (lambda: triggered(data(8), Patch(), -1), "target -1"),
        (
            lambda: triggered(Data(torch.zeros(2, 3, 8, 8), torch.ones(2), 2), Patch(), 1),
            "only samples",
        ),
        (lambda: changed(data(8), data(9)), "poisoned copy"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(BadInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def _cover(share: float) -> Data:
    return poison(
        data(8),
        Patch(),
        rate=0.5,
        target=1,
        generator=generator(),
        cover=share,
        cover_trigger=Warp(noise=1.0),
    )
