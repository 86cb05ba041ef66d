"""What renders pages and cards: the templates, their filters, and what their entries are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from isthmus.evidence.labels import label, short
from isthmus.evidence.record import Value
from isthmus.evidence.words import (
    capital,
    change,
    digits,
    format_value,
    nats,
    of_samples,
    sentence,
    time_taken,
    with_quartiles,
    with_spread,
)
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    BONAFIDE_LOSS,
    CALIBRATION_ERROR,
    CONFIDENCE,
    INJECTION_SUCCESS,
    LOSS,
    RECOVERY,
)
from isthmus.runs.wording import counted, percent

EXPLAINED = {
    ACCURACY: "on evaluation data; higher is better",
    ATTACK_SUCCESS: (
        "of triggered inputs from other classes, the share sent to the target; lower is better"
    ),
    RECOVERY: (
        "of the same triggered inputs, the share that is given its true class; higher is better"
    ),
    INJECTION_SUCCESS: (
        "of the images with an injected error, the share that still shows it; lower is better"
    ),
    BONAFIDE_ACCURACY: "on trusted samples, those that t was chosen with; higher is better",
    LOSS: "in nats, on evaluation data; lower is better",
    BONAFIDE_LOSS: "in nats, on trusted samples; lower is better",
    CONFIDENCE: "mean probability of the network's own answers; best where it equals the accuracy",
    CALIBRATION_ERROR: "mean distance of confidence from accuracy, in 15 bins; lower is better",
}
"""What stands under the name of a measure."""

FACTS = {
    "other": "second endpoint",
    "recalibrated_on": "BatchNorm recalibrated on",
    "lr": "learning rate",
    "choice": "layers",
    "gradients": "gradients by the weights",
    "endpoint_gradients": "gradient evaluations for the second endpoint",
    "low": "smallest t",
    "high": "largest t",
    "holdout": "share held out from training",
}
"""What entries of a record are called on the page, where their own names would not do."""

NO_BARRIER = 0.05
"""Nats below which a rise of the loss along a line counts as none."""


def barrier_in_words(barrier: float) -> str:
    """Return what the loss barrier back to the network as received says about the repair."""
    rise = (
        "On the straight line back to the network as received, the loss on bonafide data rises by "
        f"{nats(barrier)} nats above the line between its ends: "
    )
    if barrier < NO_BARRIER:
        return (
            f"{rise}there is no barrier. The repaired network has stayed in the basin of the "
            "network as received, which is a warning: what was tampered with there may come back "
            "with little training."
        )
    return (
        f"{rise}there is a barrier. The repaired network has left the basin of the network as "
        "received; that does not prove that a backdoor is gone."
    )


def facts(part: Mapping[str, Any], skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the entries of a part of the record as (name, text), those of its parts after their
    names.
    """
    for name, value in part.items():
        if name in skip or value is None:
            continue
        title = FACTS.get(name, name.replace("_", " "))
        if isinstance(value, Mapping):
            yield from ((f"{title}: {inner}", text) for inner, text in facts(value))
        elif name == "seconds":
            yield "time taken", time_taken(value)
        else:
            yield title, _fact(value)


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _explanation(name: str, value: Value | None) -> str:
    """What stands under the name of a measure: what is known of it, else its unit."""
    if name in EXPLAINED:
        return EXPLAINED[name]
    return "" if value is None or value.unit == "share" else value.unit


def environment() -> Environment:
    """Return what renders the pages: the templates, their filters and their functions."""
    env = Environment(
        loader=PackageLoader("isthmus.evidence", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        label=label,
        percent=percent,
        time_taken=time_taken,
        capital=capital,
        sentence=sentence,
        short=short,
        of_samples=of_samples,
        counted=counted,
    )
    env.globals.update(
        digits=digits,
        with_quartiles=with_quartiles,
        with_spread=with_spread,
        format_value=format_value,
        change=change,
        explanation=_explanation,
        barrier_in_words=barrier_in_words,
        facts=facts,
    )
    return env
