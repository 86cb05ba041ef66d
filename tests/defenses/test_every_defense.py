"""One tester for defenses: every defense of the package obeys the same laws on the same networks.

A new defense is one row of `DEFENSES`; a test fails where one is in no row."""

import copy
import inspect
from functools import lru_cache

import pytest
import torch
from support.networks import ZOO, data, network
from support.refusals import refused
from support.victims import TRAINING, samples, victim
from torch import nn

import isthmus.defenses
from isthmus import Data, fit, recalibrate
from isthmus.defenses import (
    ANP,
    CLP,
    FTSAM,
    IBAU,
    NAD,
    TAC,
    TSC,
    ULRL,
    AlongPath,
    Averaged,
    FinePrune,
    FineTune,
    FromScratch,
    GaussianNoise,
    OnCurve,
    PermutedCopy,
    PerturbedCopy,
    StraightAverage,
    Tuned,
    UniversalUnlearning,
    all_rivals,
    fixed,
    standard,
)
from isthmus.models.view import copied
from isthmus.runs import identity_of
from isthmus.training import Training

pytestmark = pytest.mark.numeric

BUDGET = TRAINING.replace(steps=16, lr=0.01)
DEFENSES = {
    "ANP": ANP(BUDGET.replace(lr=0.2)),
    "along the path": AlongPath(BUDGET, other=PerturbedCopy(), rule=fixed(0.25)),
    "averaged": Averaged((FineTune(BUDGET), FTSAM(BUDGET))),
    "CLP": CLP(),
    "fine-prune, by norm": FinePrune(BUDGET, by="norm"),
    "fine-prune, by dormancy": FinePrune(BUDGET, by="dormancy"),
    "fine-tune": FineTune(BUDGET),
    "from scratch": FromScratch(BUDGET),
    "FT-SAM": FTSAM(BUDGET),
    "I-BAU": IBAU(BUDGET.replace(lr=0.001)),
    "NAD": NAD(BUDGET),
    "noise between": GaussianNoise(PerturbedCopy(), "between"),
    "noise around": GaussianNoise(FineTune(BUDGET), "around"),
    "on a curve": OnCurve(BUDGET, other=PerturbedCopy()),
    "permuted copy": PermutedCopy("random"),
    "perturbed copy": PerturbedCopy(),
    "straight average": StraightAverage(PerturbedCopy()),
    "TAC": TAC(BUDGET),
    "TSC": TSC(BUDGET),
    "tuned": Tuned(CLP, (3.0, 0.0), 0.5),
    "ULRL": ULRL(BUDGET),
    "unlearning": UniversalUnlearning(BUDGET),
}
WITHOUT_CONVOLUTION = {"linear", "batchnorm1d", "tied", "lstm"}
WITHOUT_BATCHNORM_SCALE = ZOO.keys() - {"batchnorm", "batchnorm1d", "tied", "frozen"}
NOT_FED_BY_CONVOLUTION = ZOO.keys() - {"batchnorm", "frozen"}
REFUSED = {
    "ANP": WITHOUT_BATCHNORM_SCALE,
    "CLP": NOT_FED_BY_CONVOLUTION,
    "fine-prune, by norm": {*WITHOUT_CONVOLUTION, "weightnorm", "hooked"},
    "fine-prune, by dormancy": {*WITHOUT_CONVOLUTION, "weightnorm", "hooked"},
    "from scratch": {"attention", "mixed", "weightnorm"},
    "NAD": WITHOUT_CONVOLUTION,
    "permuted copy": {"linear", "lstm"},
    "TSC": {"linear", "lstm"},
    "tuned": NOT_FED_BY_CONVOLUTION,
    "ULRL": {"weightnorm", "hooked"},
}
KEEPS_STATISTICS = {
    *("CLP", "tuned", "permuted copy", "unlearning"),
    *("along the path", "on a curve"),
}
"""Defenses that do not recalibrate, or take back what that does to the ends of a path."""
MAY_CHANGE_NOTHING = {"CLP", "tuned"}
"""Of eight channels none need stand out."""
TRAINS_NOTHING = {"CLP", "noise between", "permuted copy", "perturbed copy", "straight average"}
every_defense = pytest.mark.parametrize("name", DEFENSES)


@lru_cache
def trained(kind: str) -> nn.Module:
    """A network that is above chance on its samples, as every defense may ask."""
    net, bonafide = (victim(0), samples()) if kind == "victim" else (network(kind), data())
    fit(net, bonafide, steps=150, lr=0.02, batch_size=16, precision="fp32", device="cpu")
    return net


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def callable_with_a_network(kind):
    call = inspect.getattr_static(kind, "__call__", None)
    return inspect.isfunction(call) and len(inspect.signature(call).parameters) == 3


def test_every_public_defense_is_in_the_table():
    exported = {getattr(isthmus.defenses, name) for name in isthmus.defenses.__all__}
    public = {
        kind
        for kind in exported
        if inspect.isclass(kind) and hasattr(kind, "gradients") and callable_with_a_network(kind)
    }
    assert public == {type(defense) for defense in DEFENSES.values()}


def test_the_tables_of_rivals_hold_nothing_else():
    rivals = [*standard(victim(1), BUDGET).values(), *all_rivals(BUDGET).values()]
    assert {type(rival) for rival in rivals} <= {type(defense) for defense in DEFENSES.values()}


@every_defense
def test_it_returns_another_ordinary_network_that_depends_on_the_seed_alone(name):
    tampered, defense = copy.deepcopy(trained("victim")), DEFENSES[name]
    before, state = copy.deepcopy(tampered.state_dict()), torch.get_rng_state()
    repaired = defense(tampered, samples())
    assert same(before, tampered.state_dict()) and torch.equal(state, torch.get_rng_state())
    assert repaired.state_dict().keys() == before.keys()
    assert type(repaired) is type(tampered)
    assert not any(part.training for part in repaired.modules())
    assert name in MAY_CHANGE_NOTHING or not same(before, repaired.state_dict())
    if name not in KEEPS_STATISTICS:
        twin = recalibrate(copy.deepcopy(repaired), samples())
        assert same(twin.state_dict(), repaired.state_dict()), "BatchNorm is the bonafide data's"
    torch.rand(3)
    assert same(defense(tampered, samples()).state_dict(), repaired.state_dict())


@every_defense
@pytest.mark.parametrize("kind", ZOO)
def test_every_network_is_repaired_or_refused_with_a_reason(name, kind):
    tampered = copied(trained(kind)).train()
    before = copy.deepcopy(tampered.state_dict())
    trains = [p.requires_grad for p in tampered.parameters()]
    if kind in REFUSED.get(name, ()):
        refused(lambda: DEFENSES[name](tampered, data()))
    else:
        repaired = DEFENSES[name](tampered, data())
        assert repaired.state_dict().keys() == before.keys() and not repaired.training
        assert [p.requires_grad for p in repaired.parameters()] == trains
        assert [p.dtype for p in repaired.parameters()] == [p.dtype for p in tampered.parameters()]
        assert torch.isfinite(repaired(data().x)).all()
        if kind == "tied":
            assert repaired.mirror.weight is repaired.up.weight
    assert same(before, tampered.state_dict()) and tampered.training
    assert all(p.grad is None for p in tampered.parameters())


@every_defense
def test_images_of_bytes_are_those_of_floats(name):
    exact = data(dtype=torch.uint8)
    floats = Data(exact.x.float() / 255, exact.y, exact.classes)
    tampered = trained("batchnorm")
    one, other = (DEFENSES[name](tampered, bonafide) for bonafide in (exact, floats))
    for key, value in one.state_dict().items():
        assert torch.allclose(value, other.state_dict()[key], atol=1e-5), key


@every_defense
def test_it_is_a_value_that_says_its_budget(name):
    defense = DEFENSES[name]
    twin = copy.deepcopy(defense)
    assert twin == defense and hash(twin) == hash(defense)
    assert identity_of(twin) == identity_of(defense) and " at 0x" not in identity_of(defense)
    assert defense.gradients >= 0
    assert (defense.gradients == 0) == (name in {*TRAINS_NOTHING, "tuned"})


@pytest.mark.parametrize("kind", [ANP, FineTune, IBAU, OnCurve, AlongPath])
def test_a_training_that_is_none_is_refused(kind):
    refused(lambda: kind({"steps": 4, "lr": 0.1}), "dict", "Training(steps=")
    assert hash(kind(Training(steps=4, lr=0.1))) == hash(kind(Training(steps=4, lr=0.1)))
