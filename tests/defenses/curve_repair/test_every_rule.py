"""One tester for rules: every rule of the package obeys the same laws on the same paths.

A new rule is one row of `RULES`; a test fails where one is in no row."""

import copy
import inspect
import pickle
from typing import get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import refused

import isthmus.defenses
from isthmus.defenses import BONAFIDE, Choice, Rule, farthest_within, fixed, settled, up_to
from isthmus.metrics import Mean, Path, Rate, grid

RULES = {
    "farthest_within": farthest_within(0.05),
    "fixed": fixed(0.28),
    "settled": settled(BONAFIDE),
    "up_to": up_to(0.28),
}
CONFIDES = RULES.keys() - {"fixed"}
"""Rules that may claim to know."""
every_rule = pytest.mark.parametrize("name", RULES)


def path_of(accuracies, ts=None):
    ts = grid(len(accuracies)) if ts is None else ts
    return Path(ts, tuple(0.0 for _ in ts), {BONAFIDE: tuple(accuracies)}, 1.0, "nothing")


def test_every_public_rule_is_in_the_table():
    members = [getattr(isthmus.defenses, name) for name in isthmus.defenses.__all__]
    makers = {
        member.__name__
        for member in members
        if inspect.isfunction(member) and get_type_hints(member).get("return") == Rule
    }
    assert makers == RULES.keys()


@every_rule
@given(hits=st.lists(st.integers(0, 200), min_size=3, max_size=12), n=st.sampled_from([10, 200]))
def test_a_choice_is_a_measured_point_with_a_reason_that_names_it(name, hits, n):
    path = path_of([Rate(min(h, n), n) for h in hits])
    choice = RULES[name](path)
    assert isinstance(choice, Choice) and choice in path.t
    assert choice.rule.startswith(name)
    assert f"t = {choice:g}" in choice.reason and "\n" not in choice.reason
    assert choice.confident in ((True, False) if name in CONFIDES else (False,))
    assert ("cannot tell" in choice.reason) == (not choice.confident and name in CONFIDES)


@every_rule
def test_the_same_path_gives_the_same_choice_and_is_left_alone(name):
    path = path_of([Rate(h, 200) for h in (190, 188, 180, 100, 190)])
    before, state = copy.deepcopy(path), torch.get_rng_state()
    one, two = RULES[name](path), RULES[name](path)
    assert (one, one.reason, one.confident) == (two, two.reason, two.confident)
    assert path == before and torch.equal(state, torch.get_rng_state())
    assert pickle.loads(pickle.dumps(one)).reason == one.reason


@every_rule
@pytest.mark.parametrize("values", [[0.9] * 5, [Mean(0.9, 200, 0.1)] * 5])
def test_without_counts_no_rule_is_confident(name, values):
    choice = RULES[name](path_of(values))
    assert not choice.confident and choice in grid(5)


@every_rule
def test_points_that_are_not_equally_spaced_are_taken_as_they_are(name):
    ts = (0.0, 0.03, 0.27, 0.4, 1.0)
    choice = RULES[name](path_of([Rate(h, 500) for h in (480, 478, 470, 460, 480)], ts))
    assert choice in ts


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"fixed"}))
def test_a_path_that_lacks_the_metric_is_refused(name):
    path = Path((0.0, 0.5, 1.0), (0.0,) * 3, {"other": (0.1,) * 3}, 1.0, "nothing")
    refused(lambda: RULES[name](path), BONAFIDE)
