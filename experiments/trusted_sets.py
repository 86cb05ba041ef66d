"""Table: what screening finds in a trusted set that is not clean, and what a repair is worth with
and without it.

    isthmus sweep experiments/trusted_sets.toml --set data=DIR     a file per job
    isthmus sweep experiments/trusted_sets.toml --gather           the tables of the page

DIR holds MNIST, for trusted_sets_color.toml CIFAR-10. A job is a set, a fault (poisoned, mislabeled
or foreign images), its share of the trusted set and a seed. The network is backdoored by a patch.
Trusted sets are screened in pixels, in the penultimate features of the tampered network, and in
those of a network that was repaired with the set as it is; the repair is done with the set as it
is, with what the screening in features of the tampered network leaves, and with what is truly
clean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from command import slug, use_threads
from pages import grouped, ranged
from screening import SETUPS, drawn_parts, rate_of, with_interval
from torch import Tensor, nn

from isthmus import Data, repair
from isthmus.attacks import Patch, poison
from isthmus.defenses import Repair
from isthmus.detection import Screening, screen_trusted
from isthmus.evidence import foreign_samples, provenance
from isthmus.metrics import Accuracy, AttackSuccess, Rate, as_record

WEIGHTS = Path("weights/trusted_sets")
TARGET, RATE, TRUSTED = 1, 0.05, 2000


def faulty(clean: Data, fault: str, share: float, seed: int, trigger: Patch) -> tuple[Data, Tensor]:
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
        x[chosen], y[chosen] = trigger(x[chosen]), TARGET
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
    """Return how many faults and how many clean images are suspects, and by which sign."""
    signs = {
        "suspects": screening.suspects,
        "foreign": screening.foreign,
        "mislabeled": screening.mislabeled,
    }
    return {
        sign: {
            name: as_record(Rate(int(marked[members].sum()), int(members.sum())))
            for name, members in {"faults": is_fault, "clean": ~is_fault}.items()
            if bool(members.any())
        }
        for sign, marked in signs.items()
    }


def judged(net: nn.Module, test: Data, trigger: Patch) -> dict[str, Any]:
    """Return accuracy and attack success."""
    return {
        "accuracy": as_record(Accuracy(test)(net)),
        "attack success": as_record(AttackSuccess(test, trigger, TARGET)(net)),
    }


def doubted(made: Repair) -> bool:
    """Return whether the preflight of a repair is concerned about the samples."""
    assert made.preflight is not None
    return any(
        line.concern and line.about == "samples" for line in made.preflight.samples.findings()
    )


def job_name(set: str, fault: str, share: float, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{set}-{fault}-{slug(f'{share:g}')}-seed{seed}"


def run(
    set: str, fault: str, share: float, seed: int, data: str, epochs: float, steps: int
) -> dict[str, Any]:
    """Do one job. `epochs` is 0 for the set's own number; `steps` are the repair's, 0 for no
    repair.
    """
    use_threads()
    setup = SETUPS[set]
    trigger = Patch(size=setup.patch)
    train, test = setup.parts(data)
    drawn = torch.Generator().manual_seed(seed)
    bad = poison(train, trigger, rate=RATE, target=TARGET, generator=drawn)
    tampered = setup.trained(bad, seed, WEIGHTS / f"{set}-{seed}.safetensors", epochs)
    held = min(TRUSTED, len(test) // 2)
    clean, evaluation = drawn_parts(test, [held, len(test) - held], seed)
    trusted, is_fault = faulty(clean, fault, share, seed, trigger)

    def repaired(with_set: Data) -> Repair:
        return repair(tampered, with_set, seed=seed, augment=setup.augment, steps=steps)

    in_features = screen_trusted(trusted, tampered, setup.last)
    screening = {"pixels": screen_trusted(trusted), "tampered": in_features}
    warns = {"foreign in pixels": bool(foreign_samples(trusted))}
    nets = {}
    if steps:
        as_it_is = repaired(trusted)
        warns["preflight"] = doubted(as_it_is)
        nets["as it is"] = as_it_is.model
        screening["repaired"] = screen_trusted(trusted, as_it_is.model, setup.last)
        nets["screened"] = repaired(in_features.belonging(trusted)).model
        if share:
            nets["truly clean"] = repaired(trusted[~is_fault]).model
    return {
        "set": set,
        "fault": fault,
        "share": share,
        "seed": seed,
        "tampered": judged(tampered, evaluation, trigger),
        "screening": {space: found(screen, is_fault) for space, screen in screening.items()},
        "repair warns": warns,
        "repairs": {kind: judged(net, evaluation, trigger) for kind, net in nets.items()},
        "provenance": provenance(seed, {"trusted": trusted, "evaluation": evaluation}).record(),
    }


Jobs = list[dict[str, Any]]


def table(jobs: Jobs) -> str:
    """The tables of the results page."""
    lines = [
        "# Trusted sets that are not clean",
        "",
        "Made by `isthmus sweep experiments/trusted_sets.toml --gather`, for CIFAR-10 with",
        "`trusted_sets_color.toml`. A trusted set has 2,000 images. Shares of all images of all",
        "seeds with 95 % intervals; accuracy and attack success: mean [least, most] over seeds, %.",
        "What it comes to is told in [screening inputs](../detection.md#trusted-sets).",
    ]
    for (name,), own in grouped(jobs, "set").items():
        lines += ["", f"## {name}", "", received(own), "", *screening_rows(own), "", *notices(own)]
        if any(job["repairs"] for job in own):
            lines += ["", *repair_rows(own)]
    return "\n".join(lines) + "\n"


def received(jobs: Jobs) -> str:
    """What came in."""
    first = [own[0]["tampered"] for own in grouped(jobs, "seed").values()]
    cells = [ranged([job[c]["value"] for job in first]) for c in ("accuracy", "attack success")]
    return f"{len(first)} tampered networks: accuracy {cells[0]}, attack success {cells[1]}."


def screening_rows(jobs: Jobs) -> list[str]:
    """What is suspected: faults, and clean images."""
    lines = [
        "| fault | share | features | of the faults | foreign, mislabeled | of the clean |",
        "|---" * 6 + "|",
    ]
    for (fault, share), own in grouped(jobs, "fault", "share").items():
        for space in own[0]["screening"]:
            rows = [job["screening"][space] for job in own]
            cells = ["", ""]
            if share:
                signs = [rate_of([r[n]["faults"] for r in rows]) for n in ("foreign", "mislabeled")]
                cells = [with_interval(rate_of([row["suspects"]["faults"] for row in rows]))]
                cells += [", ".join(f"{sign:.2f}" for sign in signs)]
            cells += [with_interval(rate_of([row["suspects"]["clean"] for row in rows]), 3)]
            what = fault if share else "none"
            lines.append(f"| {what} | {share:g} | {space} | {' | '.join(cells)} |")
    return lines


def notices(jobs: Jobs) -> list[str]:
    """On how many sets `isthmus repair` says something of the samples, and what of."""
    signs = list(jobs[0]["repair warns"])
    lines = [
        "Sets on which `isthmus repair` gives notice of the samples:",
        "",
        f"| fault | share | {' | '.join(signs)} |",
        "|---" * (2 + len(signs)) + "|",
    ]
    for (fault, share), own in grouped(jobs, "fault", "share").items():
        counts = [f"{sum(job['repair warns'][s] for job in own)} of {len(own)}" for s in signs]
        lines.append(f"| {fault if share else 'none'} | {share:g} | {' | '.join(counts)} |")
    return lines


def repair_rows(jobs: Jobs) -> list[str]:
    """Accuracy and attack success of the repairs."""
    lines = ["| fault | share | trusted set | accuracy | attack success |", "|---" * 5 + "|"]
    for (fault, share), own in grouped(jobs, "fault", "share").items():
        for kind in own[0]["repairs"]:
            rows = [job["repairs"][kind] for job in own]
            cells = [ranged([r[c]["value"] for r in rows]) for c in ("accuracy", "attack success")]
            what = fault if share else "none"
            lines.append(f"| {what} | {share:g} | {kind} | {' | '.join(cells)} |")
    return lines
