"""Table: what screening finds in a trusted set that is not clean, and what a repair is worth with
and without it.

    isthmus sweep experiments/trusted_sets.toml --set data=DIR     a file per job
    isthmus sweep experiments/trusted_sets.toml --gather           the results page

A job is a set, a fault (poisoned, mislabeled or foreign images), its share of the trusted set and a
seed. The network is backdoored by a patch. Trusted sets are screened in pixels and in the
penultimate features of the tampered network; the repair is done with the set as it is, with what
the screening in features leaves, and with what is truly clean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from command import parts, slug, use_threads
from pages import grouped, medians
from screening import SETUPS, drawn_parts
from torch import Tensor, nn

from isthmus import Data, repair
from isthmus.attacks import Patch, poison
from isthmus.detection import Screening, screen_trusted
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, Rate, as_record

WEIGHTS = Path("weights/trusted_sets")
TRIGGER, TARGET, RATE, TRUSTED = Patch(size=3), 1, 0.05, 2000


def faulty(clean: Data, fault: str, share: float, seed: int) -> tuple[Data, Tensor]:
    """Return the trusted set with faults, and where they are.

    Foreign images are clean ones with their pixels in another order, the same for all of them:
    they have the right brightness and no shape.
    """
    drawn = torch.Generator().manual_seed(seed)
    count = round(share * len(clean))
    pool = (clean.y != TARGET).nonzero().squeeze(1)
    chosen = pool[torch.randperm(len(pool), generator=drawn)[:count]]
    x, y = clean.floats(), clean.y.clone()
    if fault == "poisoned":
        x[chosen], y[chosen] = TRIGGER(x[chosen]), TARGET
    elif fault == "mislabeled":
        moved = torch.randint(1, clean.num_classes, (count,), generator=drawn)
        y[chosen] = (y[chosen] + moved) % clean.num_classes
    else:
        flat = x[chosen].flatten(2)
        order = torch.randperm(flat.shape[2], generator=drawn)
        x[chosen] = flat[:, :, order].view_as(x[chosen])
    is_fault = torch.zeros(len(clean), dtype=torch.bool)
    is_fault[chosen] = True
    return clean.with_floats(x, y), is_fault


def found(screening: Screening, is_fault: Tensor) -> dict[str, Any]:
    """Return how many faults and how many clean images are suspects."""
    suspects, rows = screening.suspects, {}
    for name, members in {"faults": is_fault, "clean": ~is_fault}.items():
        if bool(members.any()):
            rows[name] = as_record(Rate(int(suspects[members].sum()), int(members.sum())))
    return rows


def repaired(
    tampered: nn.Module, trusted: Data, test: Data, name: str, seed: int, steps: int
) -> dict[str, Any]:
    """Return accuracy and attack success of a repair."""
    budget = {"steps": steps} if steps else {}
    net = repair(tampered, trusted, seed=seed, augment=SETUPS[name].augment, **budget).model
    return {
        "accuracy": as_record(Accuracy(test)(net)),
        "attack success": as_record(AttackSuccess(test, TRIGGER, TARGET)(net)),
    }


def job_name(set: str, fault: str, share: float, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{set}-{fault}-{slug(f'{share:g}')}-seed{seed}"


def run(
    set: str, fault: str, share: float, seed: int, data: str, epochs: int, steps: int
) -> dict[str, Any]:
    """Do one job. `epochs` is 0 for the set's own number, `steps` 0 for the repair's."""
    use_threads()
    setup = SETUPS[set]
    train, test = parts(data)
    drawn = torch.Generator().manual_seed(seed)
    bad = poison(train, TRIGGER, rate=RATE, target=TARGET, generator=drawn)
    tampered = setup.trained(bad, seed, WEIGHTS / f"{set}-{seed}.safetensors", epochs)
    held = min(TRUSTED, len(test) // 2)
    clean, evaluation = drawn_parts(test, [held, len(test) - held], seed)
    trusted, is_fault = faulty(clean, fault, share, seed)
    in_features = screen_trusted(trusted, tampered, setup.last)
    sets = {
        "as it is": trusted,
        "screened": in_features.belonging(trusted),
        "truly clean": trusted[~is_fault],
    }
    return {
        "set": set,
        "fault": fault,
        "share": share,
        "seed": seed,
        "tampered": {
            "accuracy": as_record(Accuracy(evaluation)(tampered)),
            "attack success": as_record(AttackSuccess(evaluation, TRIGGER, TARGET)(tampered)),
        },
        "screening": {
            "pixels": found(screen_trusted(trusted), is_fault),
            "penultimate": found(in_features, is_fault),
        },
        "repairs": {
            kind: repaired(tampered, trusted_set, evaluation, set, seed, steps)
            for kind, trusted_set in sets.items()
        },
        "provenance": provenance(seed, {"trusted": trusted, "evaluation": evaluation}).record(),
    }


def table(jobs: list[dict[str, Any]]) -> str:
    """The tables of the results page."""
    lines = [
        "# Trusted sets that are not clean",
        "",
        "Middle (least to most) over seeds. Made by",
        "`isthmus sweep experiments/trusted_sets.toml --gather`.",
    ]
    for (name,), own in grouped(jobs, "set").items():
        lines += ["", f"## {name}", "", *screening_rows(own), "", *repair_rows(own)]
    return "\n".join(lines) + "\n"


def screening_rows(jobs: list[dict[str, Any]]) -> list[str]:
    """What is suspected: faults, and clean images."""
    lines = ["| fault | share | space | of the faults | of the clean |", "|---|---|---|---|---|"]
    for (fault, share), own in grouped(jobs, "fault", "share").items():
        for space in ("pixels", "penultimate"):
            cells = []
            for kind in ("faults", "clean"):
                rows = [job["screening"][space] for job in own]
                values = [row[kind]["value"] for row in rows if kind in row]
                cells.append(medians(values) if values else "")
            lines.append(f"| {fault} | {share:g} | {space} | {' | '.join(cells)} |")
    return lines


def repair_rows(jobs: list[dict[str, Any]]) -> list[str]:
    """Accuracy and attack success of the repairs."""
    lines = ["| fault | share | trusted set | accuracy | attack success |", "|---|---|---|---|---|"]
    for (fault, share), own in grouped(jobs, "fault", "share").items():
        for kind in ("as it is", "screened", "truly clean"):
            rows = [job["repairs"][kind] for job in own]
            cells = [medians([r[c]["value"] for r in rows]) for c in ("accuracy", "attack success")]
            lines.append(f"| {fault} | {share:g} | {kind} | {' | '.join(cells)} |")
    return lines
