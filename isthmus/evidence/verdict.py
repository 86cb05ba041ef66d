"""The outcome of a repair in one sentence, and what the evidence does not prove."""

from __future__ import annotations

from isthmus.defenses.curve_repair.repair import Repair
from isthmus.evidence.judge import Judge
from isthmus.evidence.record import Network, Value
from isthmus.metrics.names import ACCURACY, ATTACK_SUCCESS, BONAFIDE_ACCURACY, INJECTION_SUCCESS
from isthmus.runs.wording import percent

STILL_WORKS = 0.1
"""The success rate from which on a report says that the tampering still works."""

STILL = {
    ATTACK_SUCCESS: "the backdoor still works",
    INJECTION_SUCCESS: "injected errors remain",
}


def verdict(repaired: Repair, before: Network, after: Network) -> str:
    """Return the outcome in one plain sentence; where the tampering still works, it says so first.

    It does where the lower end of its success rate's interval is above a tenth.
    """
    tampering = [name for name in STILL if name in after.measures]
    accuracy = ACCURACY if ACCURACY in after.measures else BONAFIDE_ACCURACY
    moves = [_move(name, before, after, name) for name in tampering]
    moves.append(_move(accuracy, before, after, "accuracy"))
    remains = [STILL[name] for name in tampering if _still_works(after.measures[name])]
    works = f", on which {' and '.join(remains)}" if remains else ""
    outcome = f"the network at t = {float(repaired.t):g}{works}: {'; '.join(moves)}."
    if repaired.t.confident:
        unknown = "Whether a backdoor is gone was not measured: no trigger was given."
        return f"Took {outcome}" if tampering else f"Took {outcome} {unknown}"
    if repaired.damaged:
        return f"Every point of the path costs too much accuracy; taken all the same was {outcome}"
    return f"The samples cannot tell which point to trust; taken untested was {outcome}"


def _move(name: str, before: Network, after: Network, words: str) -> str:
    was = before.measures[name].value
    now = after.measures[name].value
    return f"{words} {_percent(was)} before, {_percent(now)} after"


def _percent(share: float | None) -> str:
    return "not finite" if share is None else percent(share)


def _still_works(success: Value) -> bool:
    return success.low is not None and success.low > STILL_WORKS


def limits(repaired: Repair, judge: Judge) -> list[str]:
    """Return what the evidence does not prove, as sentences for a reader."""
    lines = []
    if not repaired.t.confident:
        lines.append(
            "The choice of t is not supported by the samples; treat the network as a candidate."
        )
    if judge.trigger is None:
        lines.append(
            "No trigger was given: the report shows how much accuracy is left, not that a backdoor "
            "is gone."
        )
    lines.append(
        "A low attack success rate on one trigger says nothing about other triggers or targets."
    )
    if judge.trigger is None:
        lines.append(
            "A repaired network can sometimes learn its backdoor again from a few triggered images."
        )
    else:
        lines.append("Re-activation was tried with one way of retraining; another may wake more.")
    return [*lines, *_limits_of_the_data(repaired, judge)]


def _limits_of_the_data(repaired: Repair, judge: Judge) -> list[str]:
    lines = []
    if judge.errors is not None:
        lines.append(
            f"Injected errors were looked for at {len(judge.errors)} images; others may be left "
            "elsewhere."
        )
    if judge.evaluation is None:
        trained_on = repaired.held_out is repaired.fitted
        where = "that the curve was trained on" if trained_on else "held out from training"
        lines.append(f"No evaluation data were given: figures are on bonafide samples {where}.")
    if judge.left_out:
        lines.append(
            f"{judge.left_out} evaluation samples were left out because they are among the "
            "bonafide ones."
        )
    return lines
