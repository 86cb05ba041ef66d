"""The verdict: what a reader does with a repaired network, decided from the record alone.

Grounds are collected, each with the decision that it forces, and the gravest decides. A low attack
success on a trigger that was given, at a small cost, is the only way to "use": where no trigger is
known, nobody has seen that a backdoor is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from isthmus.curves.route import CURVE_TRAINING
from isthmus.defenses.unlearning.unlearn import UNLEARNING, UniversalUnlearning
from isthmus.evidence.commands import Step, next_command
from isthmus.evidence.compressing import RECALIBRATION
from isthmus.evidence.cost import COSTLY, beyond, drop_interval
from isthmus.evidence.record import FindingPart, Report, Value, VerdictPart
from isthmus.evidence.waking import COMES_BACK, STILL_WORKS, TAMPERING, waking
from isthmus.evidence.words import capital, points, sentence
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    DIVERGENCE,
    INJECTION_SUCCESS,
    RECOVERY,
    SPARSE,
    UNIVERSAL,
)
from isthmus.runs.wording import counted, percent

Decision = Literal["use", "use with care", "do not use"]

DECISIONS: tuple[Decision, ...] = ("use", "use with care", "do not use")
"""From the lightest to the gravest."""

ACCEPTABLE = 0.05
"""The cost in accuracy up to which a network is used without more ado.

Published repairs lose 1 to 4 points with 1 to 5 % of the training data; who loses more can do
better, with another defense or more samples."""

LOST = 0.5
"""The share of the accuracy that recovery has to reach.

Below it the trigger no longer leads to the target, but still spoils most answers."""

BRIEF = 0.5
"""The part of its default length below which a training is called short."""

UNSURE = 0.025
"""The half width of an interval above which the samples are called few: the cost is then known to
no better than half of what is acceptable."""


WATCHED = {UNIVERSAL, SPARSE, DIVERGENCE}
"""What a repair that decides between its ways measures on the path, one of them at least."""


@dataclass(frozen=True)
class Ground:
    """A reason for a decision, and the step that it asks for next."""

    decision: Decision
    reason: str
    step: Step


def decide(report: Report) -> VerdictPart:
    """Return what to do with the repaired network: a pure function of the record, which reads all
    of it but `verdict` and `decision`.
    """
    grounds = [*_of_accuracy(report), *_of_tampering(report), *_of_samples(report)]
    decisions: list[Decision] = ["use", *(ground.decision for ground in grounds)]
    gravest = max(decisions, key=DECISIONS.index)
    deciding = [ground for ground in grounds if ground.decision == gravest]
    reasons = [ground.reason for ground in deciding]
    step: Step = deciding[0].step if deciding else "watch"
    return VerdictPart(
        decision=gravest,
        reasons=tuple(map(sentence, reasons or [_good(report)])),
        cost=_cost_in_words(report),
        warnings=tuple(_warnings(report)),
        unknown=tuple(_unknown(report)),
        next=next_command(report.provenance, step),
    )


def in_one_sentence(report: Report) -> str:
    """Return the outcome of a repair in one sentence: the decision first, then what became of the
    tampering and of the accuracy.
    """
    return f"{_opening(report)}{_outcome(report)}"


def without_decision(report: Report) -> str:
    """Return the sentence of a report without the decision, for a place that shows it already."""
    return capital(report.verdict.removeprefix(_opening(report)))


def accuracy_name(report: Report) -> str:
    """Return the name of the accuracy that decides: on evaluation data where there are any."""
    return ACCURACY if ACCURACY in report.after.measures else BONAFIDE_ACCURACY


def cost_interval(report: Report) -> tuple[float, float] | None:
    """Return the 95 % interval of the drop in accuracy (`drop_interval`); None where an accuracy is
    not finite.
    """
    return drop_interval(*_accuracies(report), report.answers)


# ── grounds ───────────────────────────────────────────────────────────────────────────────────────
def _of_accuracy(report: Report) -> Iterator[Ground]:
    before, after = _accuracies(report)
    interval = cost_interval(report)
    if interval is None or before.value is None or after.value is None:
        yield Ground("do not use", "its accuracy is not a number", "compare")
        return
    low, high = interval
    chance = 1 / max(data.classes for data in report.provenance.data.values())
    if after.low is not None and after.low <= chance:
        yield Ground("do not use", "it may answer no better than a guess", "compare")
    elif low > COSTLY:
        yield Ground("do not use", beyond(COSTLY), "compare")
    elif low > ACCEPTABLE:
        yield Ground("use with care", beyond(ACCEPTABLE), "compare")
    elif before.value - after.value > ACCEPTABLE:
        reason = f"it seems to cost more than {points(ACCEPTABLE)} of accuracy"
        yield Ground("use with care", reason, "compare")
    elif high > ACCEPTABLE:
        reason = f"the samples do not exclude a cost of more than {points(ACCEPTABLE)}"
        yield Ground("use with care", reason, "measure")


def _of_tampering(report: Report) -> Iterator[Ground]:
    names = _tampering(report)
    if not names:
        reason = "no trigger was given, so nobody has seen whether a backdoor is gone"
        yield Ground("use with care", reason, "inspect")
    for name in names:
        yield from _of_success(report, name)
    for part, what, text in _woken(report, "repaired"):
        if part == RECALIBRATION:
            yield Ground("use with care", f"recalibrating its BatchNorm {what}: {text}", "compare")
    recovery, (_, accuracy) = report.after.measures.get(RECOVERY), _accuracies(report)
    if recovery is None or recovery.high is None or accuracy.value is None:
        return
    if recovery.high < LOST * accuracy.value:
        share = percent(recovery.value or 0.0)
        reason = f"inputs with the trigger get their true class in {share} of cases only"
        yield Ground("use with care", reason, "compare")


def _of_success(report: Report, name: str) -> Iterator[Ground]:
    figure, thing = TAMPERING[name]
    after = report.after.measures[name]
    if after.value is None or after.low is None or after.high is None:
        yield Ground("do not use", f"its {figure} is not a number", "compare")
    elif after.low > STILL_WORKS:
        verb = "works" if name == ATTACK_SUCCESS else "work"
        reason = f"{thing} still {verb}: {figure} is {percent(after.value)}"
        yield Ground("do not use", reason, "compare")
    elif after.high > STILL_WORKS:
        reason = f"the samples do not exclude {figure} above {percent(STILL_WORKS)}"
        yield Ground("use with care", reason, "measure")
    elif not _worked(report, name):
        reason = f"{figure} was no higher before, so nothing is shown to be removed"
        yield Ground("use with care", reason, "check trigger")


def _of_samples(report: Report) -> Iterator[Ground]:
    if report.preflight is not None:
        doubts = [finding.text for finding in report.preflight.findings if _is_doubt(finding)]
        if report.preflight.foreign:
            doubts.append(f"{report.preflight.foreign:,} trusted samples look like no other")
        for doubt in doubts:
            yield Ground("use with care", f"the trusted samples are in doubt: {doubt}", "look")
    if ACCURACY not in report.after.measures and not report.choice.confident:
        reason = "the samples could not choose t, and no evaluation data judge the network"
        yield Ground("use with care", reason, "measure")


def _is_doubt(finding: FindingPart) -> bool:
    return finding.concern and finding.about == "samples"


# ── words ─────────────────────────────────────────────────────────────────────────────────────────
def _opening(report: Report) -> str:
    return f"{capital((report.decision or decide(report)).decision)}: "


def _outcome(report: Report) -> str:
    moves = [_move(report, name, TAMPERING[name][0]) for name in _tampering(report)]
    moves.append(_move(report, accuracy_name(report), "accuracy"))
    return f"{'; '.join(moves)}."


def _good(report: Report) -> str:
    _, thing = TAMPERING[_tampering(report)[0]]
    return (
        f"the samples show that {thing} no longer works for more than {percent(STILL_WORKS)} of "
        f"inputs, and that it costs no more than {points(ACCEPTABLE)} of accuracy"
    )


def _cost_in_words(report: Report) -> str:
    before, after = _accuracies(report)
    interval = cost_interval(report)
    if interval is None or before.value is None or after.value is None:
        return "The cost in accuracy is not known: one of the two accuracies is not a number."
    low, high = interval
    where, trained = "held-out bonafide", ""
    if accuracy_name(report) == ACCURACY:
        where = "evaluation"
    elif report.curve.holdout == 0:
        where, trained = "bonafide", " that trained it, too"
    counts = counted(after.n, f"{where} sample", f"{where} samples") if after.n else ""
    samples = f" on {counts}{trained}" if counts else trained
    return (
        f"{points(before.value - after.value)} of accuracy (95 % interval {points(low, unit=False)}"
        f" to {points(high, unit=False)}): {percent(before.value)} before, {percent(after.value)} "
        f"after{samples}."
    )


def _warnings(report: Report) -> Iterator[str]:
    permanence = report.permanence
    after = report.after.measures.get(ATTACK_SUCCESS)
    gone = after is None or after.low is None or after.low <= STILL_WORKS
    for row in (permanence.reactivation or ()) if permanence and gone else ():
        success = row.measures[ATTACK_SUCCESS].value
        if success is not None and success >= COMES_BACK:
            few = "one triggered image" if row.images == 1 else f"{row.images} triggered images"
            what = "The backdoor comes back" if _worked(report) else "The trigger is learned"
            yield (
                f"{what} easily: with {few} in later training attack success is "
                f"{percent(success)}. Train it on data that you trust only."
            )
            break
    queries = permanence.queries if permanence else None
    if queries is not None and queries.wakes(after):
        yield (
            f"Queries alone wake the trigger: within eps {queries.eps:.3g} they raise attack "
            f"success to {percent(queries.triggered.value or 0.0)}."
        )
    yield from _woken_by_compression(report)
    yield from _trained_briefly(report)
    if ACCURACY in report.after.measures and not report.choice.confident:
        yield sentence(f"how far to go (t) is not certain: {_doubt(report)}")


def _trained_briefly(report: Report) -> Iterator[str]:
    """Yield which trainings are far shorter than they are by default, in one sentence."""
    short = []
    for part in report.trainings:
        if part.name == UniversalUnlearning.__name__:
            name, taken, usual, unit = "unlearning", part.gradients, UNLEARNING.steps, "gradients"
        elif part.name.startswith("curve to "):
            name, taken, usual, unit = "a curve", part.steps, CURVE_TRAINING.steps, "steps"
        else:
            continue
        if taken < BRIEF * usual:
            short.append(f"{name} took {taken:,} {unit}, where the default is {usual:,}")
    if short:
        yield sentence(f"Training was short: {', '.join(dict.fromkeys(short))}")


def _worked(report: Report, name: str = ATTACK_SUCCESS) -> bool:
    """Return whether tampering works in the network as received, as far as the samples tell."""
    before = report.before.measures.get(name)
    return before is None or before.high is None or before.high > STILL_WORKS


def _woken_by_compression(report: Report) -> Iterator[str]:
    """Yield what compression wakes in a network that does not obey the trigger without it; what
    recalibration does in the repaired one is a ground, see `_of_tampering`.
    """
    for part, what, text in _woken(report, "repaired"):
        if part != RECALIBRATION:
            yield f"{capital(part)} {what} in the repaired network: {text}."
    for part, what, text in _woken(report, "received"):
        yield f"{capital(part)} {what} in the network as received: {text}."


def _woken(report: Report, side: Literal["repaired", "received"]) -> Iterator[tuple[str, str, str]]:
    """Yield which compression of a network wakes what, and the figures of it."""
    name, whole = accuracy_name(report), report.after if side == "repaired" else report.before
    parts = report.permanence.compressed if report.permanence else ()
    networks = {part.name: getattr(part, side) for part in parts or ()}
    compressed = {part: network.measures for part, network in networks.items() if network}
    for attack, (figure, _) in TAMPERING.items():
        for part, what in waking(whole.measures, compressed, name, attack).items():
            success, accuracy = (compressed[part][which].value or 0.0 for which in (attack, name))
            text = f"{figure} {percent(success)} at an accuracy of {percent(accuracy)}"
            yield part, what, text


def _doubt(report: Report) -> str:
    return report.choice.reason.removeprefix("cannot tell: ").partition(";")[0]


def _unknown(report: Report) -> Iterator[str]:
    if ATTACK_SUCCESS in report.after.measures:
        yield "Whether there is a backdoor with another trigger or target."
    else:
        yield f"{_about_a_backdoor(report)}: {_not_given(report)}."
        if _nothing_was_odd(report):
            yield (
                "Whether the network had a backdoor at all: nothing that resembles a trigger was "
                "found in it, but rare patches and those that change every class resemble none. If "
                "nothing else speaks against it, it may be kept as it was received."
            )
    if not WATCHED & report.path.values.keys() and not _other_end(report).startswith(
        "unlearned copy"
    ):
        yield (
            "What became of inputs that resemble a trigger: no universal perturbation was watched "
            "on this path."
        )
    if report.found_trigger is not None and report.found_trigger.decision == "cannot tell":
        yield "Whether the trigger that was found is odd: no clean networks to compare it with."
    if ACCURACY not in report.after.measures:
        yield (
            f"The accuracy on new images: no evaluation data were given, and the "
            f"{report.choice.samples:,} samples that it was measured on chose t."
        )
    interval = cost_interval(report)
    if interval is not None and (interval[1] - interval[0]) / 2 > UNSURE:
        half = points((interval[1] - interval[0]) / 2)
        yield f"The cost to better than ±{half}: there are few samples."


def _nothing_was_odd(report: Report) -> bool:
    """Return whether a search for triggers was made and found none."""
    found, watched = report.found_trigger, report.path.values.keys()
    searched = DIVERGENCE in watched and not {UNIVERSAL, SPARSE} & watched
    suspicious = found is not None and found.decision == "suspicious"
    return searched and not suspicious and INJECTION_SUCCESS not in report.after.measures


def _about_a_backdoor(report: Report) -> str:
    found = report.found_trigger
    if found is None or found.decision != "suspicious":
        return "Whether there is a backdoor, and whether it is gone"
    where = "" if found.target == "any" else f" toward {found.target}"
    return f"Whether the backdoor{where} that is suspected is one, and whether it is gone"


def _other_end(report: Report) -> str:
    other = report.provenance.other
    return "" if other is None else other.kind


def _not_given(report: Report) -> str:
    """Return why a backdoor cannot be ruled out; images with an error may hold a trigger."""
    others = [name for name in _tampering(report) if name != ATTACK_SUCCESS]
    return "no trigger was given" + (", only the images of an error" if others else "")


def _move(report: Report, name: str, words: str) -> str:
    was, now = (part.measures.get(name) for part in (report.before, report.after))
    return f"{words} {_percent(was)} before, {_percent(now)} after"


def _percent(value: Value | None) -> str:
    return "not finite" if value is None or value.value is None else percent(value.value)


def _tampering(report: Report) -> list[str]:
    return [name for name in TAMPERING if name in report.after.measures]


def _accuracies(report: Report) -> tuple[Value, Value]:
    name = accuracy_name(report)
    return report.before.measures[name], report.after.measures[name]
