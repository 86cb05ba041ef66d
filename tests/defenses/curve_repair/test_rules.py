"""Rules for t: laws over paths of any shape, and what a rule must never see."""

import copy
import dataclasses
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus import repair
from isthmus.defenses.curve_repair import rules as select
from isthmus.metrics import Path, Rate, grid
from isthmus.types import BadInput


def path_of(hits, n=1000):
    values = {select.BONAFIDE: tuple(Rate(h, n) for h in hits)}
    ts = grid(len(hits))
    return Path(ts, tuple(0.0 for _ in ts), values, 1.0, "nothing")


@given(st.lists(st.integers(500, 1000), min_size=3, max_size=21), st.floats(0.035, 0.3))
def test_farthest_within_is_the_naive_search(hits, tolerance):
    path = path_of(hits)
    choice = select.farthest_within(tolerance)(path)
    best = max(path[select.BONAFIDE])
    allowed = [
        t
        for t, v in zip(path.t, path[select.BONAFIDE], strict=True)
        if 0 < t < 1 and v >= best - tolerance
    ]
    if not allowed:
        assert not choice.confident and "cannot tell" in choice.reason
    else:
        assert choice.confident
        assert min(choice, 1 - choice) == pytest.approx(max(min(t, 1 - t) for t in allowed))


def test_of_two_equally_far_points_the_more_accurate_is_taken():
    assert select.farthest_within(0.1)(path_of([900, 890, 500, 895, 900])) == 0.75


@pytest.mark.parametrize("n, confident", [(30, False), (200, False), (1000, True)])
def test_the_number_of_samples_decides_whether_a_rule_can_tell(n, confident):
    path = path_of([round(0.9 * n)] * 5, n)
    choice = select.farthest_within(0.03, otherwise=0.25)(path)
    assert choice.confident is confident
    assert (choice == 0.5) if confident else (choice == 0.25 and str(n) in choice.reason)


@given(
    st.lists(st.integers(0, 1000), min_size=3, max_size=21),
    st.floats(0.01, 1),
    st.floats(0.02, 0.5),
)
def test_up_to_is_the_naive_search(hits, t, tolerance):
    path = path_of(hits)
    choice, values = select.up_to(t, tolerance)(path), path[select.BONAFIDE]
    inner = [point for point in path.t if 0 < point < 1 or point == t]
    farthest = min(inner, key=lambda point: abs(point - t))
    known = dict(zip(path.t, values, strict=True))
    walk = [point for point in reversed(path.t[1:]) if point <= farthest]
    best = max(values)
    while (
        walk
        and best
        - known[walk[0]]
        - ((best - best.low) ** 2 + (known[walk[0]].high - known[walk[0]]) ** 2) ** 0.5
        > tolerance
    ):
        walk.pop(0)
    if walk:
        assert choice == walk[0] and choice.confident == (
            max(v.high - v.low for v in (best, known[choice])) <= 2 * tolerance
        )
    else:
        assert not choice.confident and "cannot tell" in choice.reason
        assert known[choice] == max(known[point] for point in path.t[1:] if point <= farthest)


@pytest.mark.parametrize(
    "hits, chosen, says",
    [
        ([900, 890, 880, 870, 900], 0.25, "t = 0.25, the measured point nearest to the rule's"),
        ([900, 600, 600, 600, 900], 0.25, "t = 0.25, the most accurate point up to t = 0.25"),
    ],
)
def test_a_reason_speaks_of_the_t_that_was_taken(hits, chosen, says):
    choice = select.up_to(0.28)(path_of(hits))
    assert choice == chosen and says in choice.reason


def test_a_repair_that_is_held_back_says_from_where():
    choice = select.up_to(0.75)(path_of([900, 880, 600, 600, 900]))
    assert choice == 0.25
    assert choice.reason.startswith("took t = 0.25, because the points from there to t = 0.75")


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_choice_is_a_number_that_can_be_copied(again):
    choice = select.Choice(0.25, rule="mine", reason="because", confident=True)
    twin = again(choice)
    assert twin == choice == 0.25 == twin.t == float(twin)
    assert (twin.rule, twin.reason, twin.confident) == ("mine", "because", True)
    assert f"{twin} {twin:.1f} {twin:g}" == "0.25 0.2 0.25" and twin < 0.5 and 1 - twin == 0.75
    assert dataclasses.replace(twin, t=0.5) == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        choice.reason = "another"


@given(st.integers(100, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_up_to_is_never_lured_on_by_accuracy(first, second, last):
    """Whatever the samples say, no point beyond the one asked for is taken."""
    assert select.up_to(0.5)(path_of([900, first, second, 1000, last])) <= 0.5


@pytest.mark.parametrize("n, t, confident", [(30, 0.75, False), (1000, 0.25, True)])
def test_few_samples_cannot_hold_a_repair_back_and_do_not_claim_to(n, t, confident):
    choice = select.up_to(0.75)(
        path_of([round(share * n) for share in (0.9, 0.88, 0.75, 0.7, 0.9)], n)
    )
    assert (choice, choice.confident) == (t, confident)


@pytest.mark.parametrize("rule", [select.up_to(0.5), select.up_to(0.5, 0.1)])
def test_the_interval_of_the_chosen_point_counts_as_well(rule):
    """39 of 40 at best is known to six points, and 31 of 40, twenty points below, is not to ten."""
    choice = rule(path_of([39, 36, 31, 31, 31], 40))
    assert choice == 0.5 and not choice.confident
    assert choice.reason.startswith("cannot tell: 40 held-out samples pin an accuracy down to ±12")


def test_of_the_farthest_point_within_a_tolerance_the_interval_counts_as_well():
    choice = select.farthest_within(0.08, otherwise=0.25)(path_of([39, 39, 36, 30, 30], 40))
    assert choice == 0.25 and not choice.confident and "cannot tell" in choice.reason


def test_fixed_takes_the_nearest_measured_point_and_claims_nothing():
    choice = select.fixed(0.3)(path_of([900] * 5))
    assert choice == 0.25 and not choice.confident


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=21), st.floats(0.02, 0.5))
def test_settled_is_the_naive_search(hits, share):
    path = path_of(hits)
    choice = select.settled(select.BONAFIDE, share)(path)
    values = path[select.BONAFIDE][:-1]
    start, floor = values[0], min(values)
    assert choice.confident == (start.low > floor.high)
    if choice.confident:
        i = path.t.index(choice)
        assert max(values[i : values.index(floor) + 1]) <= floor + share * (start - floor)
        assert i == 0 or max(values[i - 1 :]) > floor + share * (start - floor)
    else:
        assert "cannot tell" in choice.reason and choice == min(
            path.t[1:-1], key=lambda t: abs(t - select.FAR)
        )


def test_settled_goes_no_farther_than_it_must_and_does_not_look_at_the_end():
    hits = [990, 800, 300, 80, 60, 50, 55, 60, 400, 700, 990]
    assert select.settled(select.BONAFIDE, 0.1)(path_of([*hits[:8], 60, 60, 990])) == pytest.approx(
        0.3
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: select.fixed(1.5),
        lambda: select.farthest_within(0.0),
        lambda: select.settled("x", 1.0),
        lambda: select.up_to(0.0),
        lambda: select.up_to(0.2, 1.0),
        lambda: select.up_to(0.2)(path_of([9, 9])),
    ],
)
def test_impossible_rules_are_refused(make):
    with pytest.raises(BadInput):
        make()


def test_a_path_without_bonafide_accuracy_is_refused():
    path = Path(
        (0.0, 1.0), (0.0, 1.0), {"attack success": (Rate(1, 2), Rate(1, 2))}, 1.0, "nothing"
    )
    with pytest.raises(BadInput, match="bonafide accuracy"):
        select.farthest_within(0.1)(path)


def test_no_rule_and_no_repair_has_a_place_for_a_trigger():
    """Law 21: an oracle's t cannot come out of a selection that has no access to triggered data."""
    for function in (repair, select.fixed, select.up_to, select.farthest_within, select.settled):
        assert not {"trigger", "target", "judge", "evaluation"} & set(
            inspect.signature(function).parameters
        )
    assert "triggers" not in inspect.getsource(select)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_the_later_of_rules_is_the_choice_of_the_one_that_goes_farthest(ts):
    path = path_of([500] * 11)
    choice = select.later(*map(select.fixed, ts))(path)
    farthest = max((select.fixed(t)(path) for t in ts), key=float)
    assert (choice, choice.reason) == (farthest, farthest.reason)


@given(
    st.lists(st.integers(0, 1000), min_size=3, max_size=21),
    st.floats(0.05, 1.0),
    st.floats(0.02, 0.3),
)
def test_lowered_goes_where_the_rule_goes_unless_accuracy_holds_it_back(hits, t, tolerance):
    path = path_of(hits)
    there = select.fixed(t)(path)
    choice = select.lowered(select.fixed(t), tolerance)(path)
    if there == 0:
        assert choice == 0 and choice.reason == there.reason
        return
    limit = select.up_to(float(there), tolerance)(path)
    assert choice == min(there, limit)
    if choice < there:
        assert (
            not choice.confident and limit.reason in choice.reason and there.reason in choice.reason
        )
    else:
        assert choice.reason == there.reason
