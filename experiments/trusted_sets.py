"""Table: what screening finds in a trusted set that is not clean, and what a repair is worth with
and without it.

    python experiments/trusted_sets.py run --set cifar10 --data DIR     a file per job
    python experiments/trusted_sets.py table                            the results page

A job is a set, a fault (poisoned, mislabeled or foreign images), its share of the trusted set and a
seed. The network is backdoored by a patch. Trusted sets are screened in pixels and in the
penultimate features of the tampered network; the repair is done with the set as it is, with what
the screening in features leaves, and with what is truly clean.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from command import slug, use_threads
from manifold_detection import spread
from screening import SETUPS, loaded, parts
from torch import Tensor, nn

from isthmus import Data, repair
from isthmus.attacks import Patch, poison
from isthmus.detection import Screening, screen_trusted
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, Rate, as_record
from isthmus.runs import read_json, write_json

RESULTS, WEIGHTS = Path("results/trusted_sets"), Path("weights/trusted_sets")
TRIGGER, TARGET, RATE, TRUSTED = Patch(size=3), 1, 0.05, 2000
FAULTS, SHARES, SEEDS = ("poisoned", "mislabeled", "foreign"), (0.0, 0.01, 0.05, 0.1), (0, 1, 2)


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
    tampered: nn.Module, trusted: Data, test: Data, name: str, seed: int, steps: int | None
) -> dict[str, Any]:
    """Return accuracy and attack success of a repair."""
    budget = {} if steps is None else {"steps": steps}
    net = repair(tampered, trusted, seed=seed, augment=SETUPS[name].augment, **budget).model
    return {
        "accuracy": as_record(Accuracy(test)(net)),
        "attack success": as_record(AttackSuccess(test, TRIGGER, TARGET)(net)),
    }


def run(
    name: str,
    fault: str,
    share: float,
    seed: int,
    folder: Path,
    epochs: int | None,
    limit: int | None,
) -> None:
    """Do one job."""
    job = f"{name}-{fault}-{slug(f'{share:g}')}-seed{seed}"
    file = RESULTS / f"{job}.json"
    if file.exists():
        return
    setup = SETUPS[name]
    train, test = loaded(folder, "train"), loaded(folder, "test")
    drawn = torch.Generator().manual_seed(seed)
    bad = poison(train, TRIGGER, rate=RATE, target=TARGET, generator=drawn)
    tampered = setup.trained(bad, seed, WEIGHTS / f"{name}-{seed}.safetensors", epochs)
    held = min(TRUSTED, len(test) // 2)
    clean, evaluation = parts(test, [held, len(test) - held], seed)
    trusted, is_fault = faulty(clean, fault, share, seed)
    in_features = screen_trusted(trusted, tampered, setup.last)
    sets = {
        "as it is": trusted,
        "screened": in_features.belonging(trusted),
        "truly clean": trusted[~is_fault],
    }
    record = {
        "set": name,
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
            kind: repaired(tampered, data, evaluation, name, seed, limit)
            for kind, data in sets.items()
        },
        "provenance": provenance(seed, {"trusted": trusted, "evaluation": evaluation}),
    }
    write_json(file, record)


def table() -> str:
    """The tables of the results page."""
    jobs = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Trusted sets that are not clean",
        "",
        "Middle (least to most) over seeds. Made by `python experiments/trusted_sets.py table`.",
    ]
    for name in dict.fromkeys(job["set"] for job in jobs):
        own = [job for job in jobs if job["set"] == name]
        lines += ["", f"## {name}", "", *screening_rows(own), "", *repair_rows(own)]
    return "\n".join(lines) + "\n"


def groups(jobs: list[dict[str, Any]]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """Return the jobs by fault and share."""
    keys = dict.fromkeys((job["fault"], job["share"]) for job in jobs)
    return {key: [j for j in jobs if (j["fault"], j["share"]) == key] for key in keys}


def screening_rows(jobs: list[dict[str, Any]]) -> list[str]:
    """What is suspected: faults, and clean images."""
    lines = ["| fault | share | space | of the faults | of the clean |", "|---|---|---|---|---|"]
    for (fault, share), own in groups(jobs).items():
        for space in ("pixels", "penultimate"):
            cells = []
            for kind in ("faults", "clean"):
                rows = [job["screening"][space] for job in own]
                values = [row[kind]["value"] for row in rows if kind in row]
                cells.append(spread(values) if values else "")
            lines.append(f"| {fault} | {share:g} | {space} | {' | '.join(cells)} |")
    return lines


def repair_rows(jobs: list[dict[str, Any]]) -> list[str]:
    """Accuracy and attack success of the repairs."""
    lines = ["| fault | share | trusted set | accuracy | attack success |", "|---|---|---|---|---|"]
    for (fault, share), own in groups(jobs).items():
        for kind in ("as it is", "screened", "truly clean"):
            rows = [job["repairs"][kind] for job in own]
            cells = [spread([r[c]["value"] for r in rows]) for c in ("accuracy", "attack success")]
            lines.append(f"| {fault} | {share:g} | {kind} | {' | '.join(cells)} |")
    return lines


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("what", choices=("run", "table"))
    options.add_argument("--data", type=Path)
    options.add_argument("--set", choices=SETUPS, default="cifar10")
    options.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    options.add_argument("--shares", nargs="+", type=float, default=SHARES)
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options.add_argument("--epochs", type=int, help="for a try: another number than the set's")
    options.add_argument("--steps", type=int, help="for a try: steps of each repair")
    return options.parse_args()


def main() -> None:
    args = arguments()
    use_threads()
    if args.what == "table":
        print(table(), end="")
        return
    for seed in args.seeds:
        for fault in args.faults:
            for share in args.shares:
                run(args.set, fault, share, seed, args.data, args.epochs, args.steps)


if __name__ == "__main__":
    main()
