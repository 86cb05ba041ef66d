"""Table: what pruning and rounding wake in networks before and after a repair, and what `inspect`
says of them.

    isthmus sweep experiments/compressed_repairs.toml --set data=DIR    a file per job, a table
    isthmus sweep experiments/compressed_repairs.toml --gather          the table alone

A job is a network that a defender receives, on the digits or one of `trained_networks.toml` on
CIFAR-10 (DIR holds its train.parquet and test.parquet), and a seed. The network is repaired with
bonafide images alone; it and the repaired one are recalibrated, pruned by 90 % and rounded to 8 and
to 4 bits, with nothing trained, and all are measured with the trigger. On the digits `inspect` then
searches the network as received, whole and compressed, and the repaired one, and judges them by the
references that come with isthmus. These were made in fp32, so the results are: ISTHMUS_PRECISION.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attackers import ATTACKS, TARGET, Sent, drawn, patch
from command import parts, use_threads
from pages import grouped, ranged
from scale import SCALES
from torch import nn
from trained_networks import received, unseen_and_theirs

from isthmus import BadInput, Data, inspect, repair, split
from isthmus.evidence import compressions, provenance, waking
from isthmus.evidence.compressing import RECALIBRATION, with_control
from isthmus.evidence.record import Value
from isthmus.metrics import Accuracy, AttackSuccess, as_records, measure
from isthmus.types import Metric

WHOLE = "whole"
SEARCH: dict[str, Any] = {"steps": 120, "batch_size": 16}
"""How the references of the digits were searched."""


def digits_network(attack: str, seed: int) -> tuple[Sent, Data, Data]:
    """Return a network trained on the digits, bonafide images, and the rest of the test images.

    A network of the attack "clean" is judged by the patch that it has never seen.
    """
    scale = SCALES["digits"]
    train, test = (scale.load(None, part) for part in ("train", "test"))
    bonafide, rest = split(test, [250, len(test) - 250], drawn(seed))
    if attack == "clean":
        return Sent(scale.trained(train, seed), patch(scale), TARGET), bonafide, rest
    return ATTACKS[attack](train, scale, seed), bonafide, rest


def trained_network(name: str, seed: int, data: str, weights: str) -> tuple[Sent, Data, Data]:
    """Return a network trained on CIFAR-10, 500 images it has not seen, and 2,000 test images."""
    train, test = parts(data)
    unseen, _ = unseen_and_theirs(train)
    order = torch.randperm(len(unseen), generator=drawn(100 + seed))
    return received(name, Path(weights).expanduser()), unseen[order[:500]], test[:2000]


def compressed(network: nn.Module, bonafide: Data) -> dict[str, nn.Module | str]:
    """Return the network and what each compression makes of it, or why it refuses."""
    networks: dict[str, nn.Module | str] = {WHOLE: network}
    for name, compress in with_control(network).items():
        try:
            networks[name] = compress(network, bonafide)
        except BadInput as refusal:
            networks[name] = str(refusal)
    return networks


def inspected(network: nn.Module | str, bonafide: Data, seed: int) -> dict[str, Any]:
    """Return what `inspect` says of a network."""
    if isinstance(network, str):
        return {"decision": "refused"}
    try:
        inspection = inspect(network, bonafide, seed=seed, **SEARCH)
    except BadInput as refusal:
        return {"decision": "refused", "reason": str(refusal)}
    return {name: getattr(inspection, name) for name in ("decision", "p", "suspect")}


def run(images: str, sent: str, seed: int, data: str, weights: str) -> dict[str, Any]:
    """Receive, repair, compress, measure, and on the digits inspect."""
    use_threads()
    if images == "digits":
        sample, bonafide, judged = digits_network(sent, seed)
    else:
        sample, bonafide, judged = trained_network(sent, seed, data, weights)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(judged),
        "attack success": AttackSuccess(judged, sample.trigger, sample.target),
    }
    repaired = repair(sample.network, bonafide, seed=seed)
    networks = {
        "received": compressed(sample.network, bonafide),
        "repaired": compressed(repaired.model, bonafide),
    }
    record: dict[str, Any] = {"images": images, "sent": sent, "seed": seed}
    for side, made in networks.items():
        record[side] = {name: measured(network, judges) for name, network in made.items()}
    if images == "digits":
        made = {**networks["received"], "repaired": repaired.model}
        made.pop(RECALIBRATION, None)
        record["inspect"] = {name: inspected(net, bonafide, seed) for name, net in made.items()}
    record["provenance"] = provenance(seed, {"bonafide": bonafide, "judged": judged}).record()
    return record


def measured(network: nn.Module | str, judges: Mapping[str, Metric]) -> dict[str, Any]:
    """Return accuracy and attack success, or why the network was not compressed."""
    if isinstance(network, str):
        return {"refused": network}
    return as_records(measure(network, judges))


# ---- the table


def cell(rows: list[dict[str, Any]], side: str, name: str) -> str:
    """Return accuracy / attack success over the seeds; how many were refused where some were."""
    networks = [row[side][name] for row in rows if name in row[side]]
    whole = [network for network in networks if "refused" not in network]
    values = [
        ranged([network[which]["value"] for network in whole], 1)
        for which in ("accuracy", "attack success")
    ]
    refused = len(networks) - len(whole)
    return " / ".join(values) * bool(whole) + f" ({refused} refused)" * bool(refused)


def wakes(rows: list[dict[str, Any]], side: str, name: str) -> str:
    """Return in how many networks a compression wakes a backdoor, as a report would say it."""
    judged = [row[side] for row in rows if "refused" not in row[side][name]]
    found = [
        waking(values[WHOLE], {small: each for small, each in values.items() if small != WHOLE})
        for values in (
            {
                small: {which: Value.model_validate(value) for which, value in each.items()}
                for small, each in networks.items()
                if "refused" not in each
            }
            for networks in judged
        )
    ]
    return f"{sum(name in names for names in found)} of {len(judged)}"


def decisions(rows: list[dict[str, Any]], name: str) -> str:
    """Return how many networks were called suspicious, with how many naming the target."""
    said = [row["inspect"][name] for row in rows]
    judged = [one for one in said if one["decision"] != "refused"]
    odd = [one for one in judged if one["decision"] == "suspicious"]
    right = sum(str(one["suspect"]) == str(TARGET) for one in odd)
    named = f", {right} by the target" if odd else ""
    return f"{len(odd)} of {len(judged)}{named}" if judged else "refused"


def table(jobs: list[dict[str, Any]]) -> str:
    """The tables of the results page."""
    names = [WHOLE, RECALIBRATION, *compressions()]
    lines = ["# What compression wakes, before and after a repair", ""]
    lines += ["Accuracy / attack success in percent, mean [least, most] over the seeds.", ""]
    lines += [f"| images | network | seeds | side | {' | '.join(names)} |"]
    lines += ["|---|---|---|---|" + "---|" * len(names)]
    for (images, sent), rows in grouped(jobs, "images", "sent").items():
        for side in ("received", "repaired"):
            cells = " | ".join(cell(rows, side, name) for name in names)
            lines.append(f"| {images} | {sent} | {len(rows)} | {side} | {cells} |")
    lines += ["", "Networks in which a compression wakes a backdoor or a part of one, as a report"]
    lines += ["says it (`isthmus/evidence/waking.py`).", ""]
    lines += [f"| images | network | side | {' | '.join(names[1:])} |"]
    lines += ["|---|---|---|" + "---|" * len(names[1:])]
    for (images, sent), rows in grouped(jobs, "images", "sent").items():
        for side in ("received", "repaired"):
            cells = " | ".join(wakes(rows, side, name) for name in names[1:])
            lines.append(f"| {images} | {sent} | {side} | {cells} |")
    lines += ["", "Networks that `inspect` calls suspicious, of those it could judge.", ""]
    searched = [WHOLE, *compressions(), "repaired"]
    lines += [f"| network | {' | '.join(searched)} |", "|---|" + "---|" * len(searched)]
    digits = [job for job in jobs if "inspect" in job]
    for (sent,), rows in grouped(digits, "sent").items():
        cells = " | ".join(decisions(rows, name) for name in searched)
        lines.append(f"| {sent} | {cells} |")
    return "\n".join(lines) + "\n"
