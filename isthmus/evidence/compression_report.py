"""A network before and after compression: accuracy, size and cost side by side, as a record.

The network after compression is read back from its file, so that what is measured is what is
delivered: with ordinary weights, since what holds them to a mask or a grid takes time at each pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import nn

from isthmus.compression import Compressed, multiply_adds, plain, sparsity
from isthmus.data.dataset import Data
from isthmus.evidence.compression_record import COMPRESSION, Compression, Side
from isthmus.evidence.cost import COSTLY, beyond, changes, counted_changes, drop_interval
from isthmus.evidence.record import AnswersPart, Origin, Value, values_of
from isthmus.evidence.waking import TAMPERING, obedience, waking
from isthmus.evidence.words import format_value
from isthmus.metrics.accuracy import Accuracy, Agreement, Chance
from isthmus.metrics.names import ACCURACY, ATTACK_SUCCESS, ROBUST_ACCURACY
from isthmus.metrics.passes import Passes
from isthmus.metrics.question import measured
from isthmus.models.checkpoint.writing import save_checkpoint
from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass
from isthmus.runs.devices import seconds_of
from isthmus.runs.wording import counted
from isthmus.types import Metric

LIMITS = [
    "Accuracy under an attack holds against that attack. Fewer levels and fewer weights can hide "
    "gradients from an attack without making the network robust.",
    "The time of an image is that of this machine in PyTorch, which skips no zeros.",
]
NO_TRIGGER = (
    "Whether compression wakes a backdoor, or undoes a repair, is not known: no trigger was given."
)

ONE_CLASS = (
    "The samples are all of one class, of which anybody may guess: measure it on all classes."
)


def compression(
    model: nn.Module,
    compressed: Compressed,
    built: nn.Module,
    data: Data,
    metrics: Mapping[str, Metric],
    folder: Path,
    *,
    network: str,
    provenance: Origin,
    passed: int | None = None,
) -> Compression:
    """Write the packed file into the folder, read it back, and measure before and after.

    `built` is the network as its factory builds it; `metrics` begin with clean accuracy; `passed`
    is the size in bytes of the file that the network came in, where it came in one. Raises BadInput
    where the file does not give the same network back, or a metric cannot be measured; then, as
    after any failure, no file is left, which would look like that of a run that is done.
    """
    file = compressed.save(folder / "compressed.safetensors")
    try:
        found = _measured(model, file, built, data, metrics, passed)
    except BaseException:  # Ctrl-C and full memory among them
        file.unlink()
        raise
    record = {
        "schema": COMPRESSION,
        "title": f"Compression of {network}",
        "provenance": provenance,
        "network": network,
        "compressed": compressed.record,
        "limits": LIMITS if ATTACK_SUCCESS in metrics else [*LIMITS, NO_TRIGGER],
        **found,
    }
    return Compression.read(record)


def _measured(
    model: nn.Module,
    file: Path,
    built: nn.Module,
    data: Data,
    metrics: Mapping[str, Metric],
    passed: int | None,
) -> dict[str, Any]:
    """Return what is measured of the network and of the one in the file, and the verdict."""
    after = plain(Compressed.load(file, built).model).to(device_of(model))
    size = _size(model, file.parent)
    model = plain(model)
    whole, passes = Passes(model), Passes(after)
    times = _times(model, after, data)
    before_side = _side(whole, data, metrics, size, times[0])
    after_side = _side(passes, data, metrics, file.stat().st_size, times[1])
    accuracy, chance = Accuracy(data).answer(passes), Chance(data).answer(passes)
    was, now = (each.logits(data).argmax(1) for each in (whole, passes))
    warnings = _warnings(
        before_side,
        after_side,
        guesses=accuracy.low <= chance,
        one_class=len(data.y.unique()) == 1,
        answers=counted_changes(*changes(was, now, data.y)),
    )
    return {
        "verdict": _verdict(before_side, after_side, warnings, passed),
        "warnings": warnings,
        **({} if passed is None else {"bytes of the file passed": passed}),
        "before": before_side,
        "after": after_side,
        "same answers": Value.of(Agreement(model, data).answer(passes)),
    }


def _size(model: nn.Module, folder: Path) -> int:
    """Return the bytes of the network in an ordinary file, which the one that it came from need not
    be: it may be packed.
    """
    whole = folder / "before.safetensors"
    try:
        return save_checkpoint(model, whole).stat().st_size
    finally:
        whole.unlink(missing_ok=True)


def _side(
    passes: Passes,
    data: Data,
    metrics: Mapping[str, Metric],
    size: int,
    times: Sequence[float],
) -> Side:
    model = passes.model
    total, nonzero = multiply_adds(model, data.x[:1])
    zero = sparsity(model)
    low, middle, high = quantiles(times, n=4, method="inclusive")
    shares = {"zero weights": zero.weights, "zero channels": zero.channels}
    side = {
        "metrics": values_of({**measured(passes, metrics), **shares}),
        "bytes": size,
        "parameters": sum(value.numel() for value in model.parameters()),
        "nonzero parameters": sum(int(value.count_nonzero()) for value in model.parameters()),
        "multiply-adds": total,
        "multiply-adds with a nonzero weight": nonzero,
        "milliseconds": middle,
        "milliseconds quartiles": (low, high),
    }
    return Side.model_validate(side)


@torch.no_grad()
def _times(
    one: nn.Module, other: nn.Module, data: Data, rounds: int = 25
) -> tuple[list[float], list[float]]:
    """Return the times of passes of one image through two networks, in milliseconds.

    They take turns, and each goes first as often as the other, so that what slows the machine down
    slows both; the first round, which is slower than all others, is left out.
    """
    times: tuple[list[float], list[float]] = ([], [])
    device = device_of(one)
    x = as_input(data.x[:1], device, channels_last=False)
    with eval_mode(one), eval_mode(other):
        turns = [(one, times[0]), (other, times[1])]
        for _ in range(rounds + 1):
            for model, taken in turns:
                taken.append(1000 * seconds_of(partial(forward_pass, model, x), device))
            turns.reverse()
    return times[0][1:], times[1][1:]


def _verdict(before: Side, after: Side, warnings: Sequence[str], passed: int | None = None) -> str:
    """Return the warnings, how much smaller the file is, also than the one that was `passed` where
    that is no ordinary one, and what is left of accuracy, under attack too, of a backdoor and of
    injected errors.
    """
    names = {ROBUST_ACCURACY: "robust accuracy"}
    names |= {name: figure for name, (figure, _) in TAMPERING.items()}
    changes = [f"clean accuracy goes {_change(before.accuracy, after.accuracy)}"]
    changes += [
        f"{words} {_change(before.metrics[name], after.metrics[name])}"
        for name, words in names.items()
        if name in before.metrics
    ]
    size = size_in_words(before.bytes, after.bytes)
    beside = f"{size} the ordinary file of the network before"
    if passed is not None and (words := size_in_words(passed, after.bytes)) != size:
        beside += f" and {words} the file that was passed"
    size = f"The file is {beside}; {', '.join(changes)}."
    return " ".join([*warnings, size])


def _warnings(
    before: Side,
    after: Side,
    *,
    guesses: bool,
    one_class: bool = False,
    answers: AnswersPart | None = None,
) -> list[str]:
    """Return why the smaller network is not to be used, as sentences; none where nothing is known
    that forbids it. `answers` are those that compression changed, where they are counted; of
    samples that are all of `one_class` a guess is as good as any network.
    """
    if guesses:
        n = after.accuracy.n
        count = counted(n, "sample", "samples") if n else "the samples"
        better = "Keep more of it, train it longer, or measure it on more samples."
        return [
            f"Do not use the smaller network: as far as {count} can tell it answers no better than "
            f"a guess. {ONE_CLASS if one_class else better}"
        ]
    old, new = ({**side.metrics, ACCURACY: side.accuracy} for side in (before, after))
    reasons = [_of_tampering(old, new, attack) for attack in TAMPERING]
    drop = drop_interval(before.accuracy, after.accuracy, answers)
    if drop is not None and drop[0] > COSTLY:
        reasons.append(beyond(COSTLY))
    return [f"Do not use the smaller network: {reason}." for reason in reasons if reason]


def _of_tampering(old: Mapping[str, Value], new: Mapping[str, Value], attack: str) -> str:
    """Return what is left of an attack, or what compression brings back of it; nothing for none."""
    what = waking(old, {"compression": new}, attack=attack).get("compression")
    return f"compression {what}" if what else obedience(old, new, attack)


def _change(before: Value, after: Value) -> str:
    """Return what a value was and is, in words."""
    return f"from {format_value(before).main} to {format_value(after).main}"


def size_in_words(before: int, after: int) -> str:
    """Return how large a file of `after` bytes is beside one of `before` bytes, to precede it.

    >>> size_in_words(400, 100), size_in_words(90, 100), size_in_words(101, 100)
    ('4.0 times smaller than', '1.1 times larger than', 'as large as')
    """
    smaller, larger = f"{before / after:.1f}", f"{after / before:.1f}"
    if smaller == larger == "1.0":
        return "as large as"
    return f"{smaller} times smaller than" if before > after else f"{larger} times larger than"
