"""Laws that every trigger keeps: one tester for all of them."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from support.networks import data
from support.triggered import BOUND_TO_A_SHAPE, TRIGGERS, keeps_its_promise

import isthmus.attacks
from isthmus.cli import words
from isthmus.runs import identity_of

DOCS = Path(__file__).parents[3] / "docs"
TOLERANCE = {"GeneratedTrigger": 1e-6}
every_trigger = pytest.mark.parametrize("name", TRIGGERS)


def public() -> set[str]:
    """Every class of the room that is called with images alone: a trigger."""
    exported = {name: getattr(isthmus.attacks, name) for name in isthmus.attacks.__all__}
    return {
        name
        for name, member in exported.items()
        if inspect.isclass(member)
        and callable(member)
        and list(inspect.signature(member.__call__).parameters) == ["self", "x"]
    }


def test_every_public_trigger_is_in_the_table_of_tests():
    assert public() == {name.split(",")[0] for name in TRIGGERS}


def test_every_trigger_of_the_command_line_is_public():
    assert {kind.__name__ for kind in words._trigger_kinds()} == public() - {
        "GeneratedTrigger",
        "OwnTrigger",
    }


def test_the_docs_list_every_public_trigger():
    rows = re.findall(
        r"^\|[^|]*\|[^|]*\| `(\w+)[.(]", (DOCS / "threats.md").read_text(), re.MULTILINE
    )
    assert public() - {"GeneratedTrigger"} <= set(rows)


HARD = {
    "images": lambda x: x,
    "one image": lambda x: x[:1],
    "no image": lambda x: x[:0],
    "float64": lambda x: x.double(),
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not contiguous": lambda x: x.flip(0).transpose(2, 3),
}


@every_trigger
@pytest.mark.parametrize("hard", HARD.values(), ids=HARD)
def test_a_trigger_keeps_its_promise(hard, name):
    keeps_its_promise(TRIGGERS[name], hard(data(6).x), tolerance=TOLERANCE.get(name, 0.0))


@pytest.mark.parametrize("name", sorted(TRIGGERS.keys() - set(BOUND_TO_A_SHAPE)))
@pytest.mark.parametrize("shape", [(5, 8), (8, 13), (32, 32)], ids=str)
def test_images_may_have_any_size(shape, name):
    x = torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(0))
    keeps_its_promise(TRIGGERS[name], x)


@every_trigger
def test_a_trigger_changes_every_image(name):
    x = data(6).x
    assert (TRIGGERS[name](x) != x).flatten(1).any(1).all()


def test_no_two_triggers_have_one_identity():
    assert len({identity_of(trigger) for trigger in TRIGGERS.values()}) == len(TRIGGERS)


# ── a trigger that breaks a law is caught ─────────────────────────────────────────────────────────


def drawn(x):
    """Random values far outside [0, 1]: what once passed every test as a registered trigger."""
    return 10 * torch.randn(x.shape, dtype=torch.float64)


@pytest.mark.parametrize(
    "broken",
    [
        drawn,
        lambda x: x + 0.5,
        lambda x: x.double(),
        lambda x: x[:, :1],
        lambda x: x.clamp_(0.2, 0.8),
        lambda x: (x + torch.rand(())).clamp(0, 1),
        lambda x: (x - x.mean()).clamp(0, 1),
        lambda x: x * torch.nan,
    ],
    ids=["random", "range", "type", "shape", "in place", "chance", "batch", "not a number"],
)
def test_a_trigger_that_breaks_its_promise_is_caught(broken):
    with pytest.raises(AssertionError):
        keeps_its_promise(broken, data(6).x)


def test_a_trigger_without_a_row_is_caught(monkeypatch):
    """As somebody would add it: exported by the room, named on the command line, in no table."""

    class Unheard:
        def __call__(self, x):
            return drawn(x)

    monkeypatch.setattr(isthmus.attacks, "Unheard", Unheard, raising=False)
    monkeypatch.setattr(isthmus.attacks, "__all__", [*isthmus.attacks.__all__, "Unheard"])
    with pytest.raises(AssertionError):
        test_every_public_trigger_is_in_the_table_of_tests()
    assert "Unheard" in public()
