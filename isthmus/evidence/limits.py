"""What the evidence of a repair does not prove."""

from __future__ import annotations

from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.evidence.judge import Judge


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
