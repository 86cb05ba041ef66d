"""Table: attacks x defenses on CIFAR-10, one checkpoint, no trigger (specification, sections 6, 11 to 13).

    python experiments/bakeoff.py run --data DIR [--attacks NAME ...] [--seeds 0 1]   one file per attack and seed
    python experiments/bakeoff.py table                                              docs/results/bakeoff.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. Bonafide samples are drawn from the training split
and are not among the attacker's (protocol B, disjoint); 5,000 test images judge. Every defense gets the same samples
and the same number of gradients for each of its settings, and chooses among them on held-out samples. Rows are written
as they are computed and not computed again; tampered networks are kept in --weights, which is not committed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from isthmus import Augment, Data, Linf, fit, load_data, split
from isthmus.attacks import PGD
from isthmus.checkpoint import load_checkpoint, save_checkpoint
from isthmus.comparison import compare
from isthmus.defenses import ANP, CLP, FTSAM, IBAU, NAD, FinePrune, FineTune, FromScratch, GaussianNoise, Tuned
from isthmus.files import read_json, write_json
from isthmus.metrics import Accuracy, AttackSuccess, as_record, measure
from isthmus.models import preact_resnet
from isthmus.provenance import provenance
from isthmus.repair import AlongPath
from isthmus.select import fixed
from isthmus.threats import label_consistent, planted
from isthmus.train import Training, one_cycle
from isthmus.triggers import Blend, LowFrequency, Patch, Sinusoid, Warp, poison
from isthmus.types import BadInput, Defense, Trigger

RESULTS = Path("results/bakeoff")
SIZES, JUDGES, TARGET = (2500, 500), 5000, 0
SENDING: Training = {"steps": 391 * 12, "lr": 0.2, "weight_decay": 2e-4, "nesterov": True, "schedule": one_cycle}
GRADIENTS = 400
SPENT: Training = {"steps": GRADIENTS, "weight_decay": 1e-4, "augment": Augment(2)}
Poisoned = Callable[[Data, torch.Generator], tuple[Data, Trigger, Any]]


def poisoned(trigger: Trigger, rate: float, target: Any = TARGET, **how: Any) -> Poisoned:
    return lambda train, draw: (
        poison(train, trigger, rate=rate, target=target, generator=draw, **how),
        trigger,
        target,
    )


def made_hard(train: Data, draw: torch.Generator) -> tuple[Data, Trigger, Any]:
    """Label-consistent: images of the target class made hard for a clean network, then the patch; labels stay."""
    clean, trigger = trained(train, int(draw.initial_seed())), Patch()
    attack = PGD(Linf(16 / 255), steps=10)
    bad = label_consistent(train, clean, trigger, target=TARGET, rate=0.5, attack=attack, generator=draw)
    return bad, trigger, TARGET


ATTACKS: dict[str, Poisoned] = {
    "BadNets": poisoned(Patch(), 0.1),
    "BadNets, 1 %": poisoned(Patch(), 0.01),
    "BadNets, all-to-all": poisoned(Patch(), 0.1, "all"),
    "Blended": poisoned(Blend(), 0.1),
    "Blended, 1 %": poisoned(Blend(), 0.01),
    "SIG": poisoned(Sinusoid(), 0.8, clean_label=True),
    "low frequency": poisoned(LowFrequency(), 0.1),
    "WaNet": poisoned(Warp(), 0.1, cover=0.2, cover_trigger=Warp(noise=1.0)),
    "label-consistent": made_hard,
}


def trained(train: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = preact_resnet(20)
    fit(net, train, augment=Augment(2), seed=seed, **SENDING)
    return net


def defenses(seed: int) -> dict[str, Defense]:
    """The path and its rivals, each with a few settings to choose from on held-out samples, weakest first."""
    spent: Training = {**SPENT, "seed": seed}

    def tuned(make: Callable[[Any], Defense], *settings: Any) -> Tuned:
        return Tuned(make, settings, tolerance=0.04, seed=seed)

    return {
        "path": AlongPath({**spent, "lr": 0.5}, low=0.05, high=0.3, rule=fixed(0.15)),
        "path, by accuracy": AlongPath({**spent, "lr": 0.5}, low=0.05, high=0.3),
        "fine-tune": tuned(lambda lr: FineTune({**spent, "lr": lr}), 0.02, 0.05, 0.1),
        "FT-SAM": tuned(lambda rho: FTSAM({**spent, "lr": 0.05}, rho=rho), 1.0, 2.0, 4.0),
        "SAM, not adaptive": tuned(lambda rho: FTSAM({**spent, "lr": 0.05}, rho=rho, adaptive=False), 0.5, 1.0, 2.0),
        "fine-prune": tuned(lambda share: FinePrune({**spent, "lr": 0.02}, share, by="dormancy"), 0.3, 0.6, 0.9),
        "NAD": tuned(lambda lr: NAD({**spent, "lr": lr}), 0.02, 0.05, 0.1),
        "I-BAU": tuned(lambda lr: IBAU({**spent, "lr": lr}), 0.001, 0.003, 0.01),
        "ANP": ANP({**spent, "lr": 0.2}),
        "CLP": tuned(CLP, 5.0, 4.0, 3.0),
        "noise": GaussianNoise(FineTune({**spent, "lr": 0.05}), "around"),
        "from scratch": FromScratch({**spent, "lr": 0.1}),
    }


def job(train: Data, test: Data, weights: Path, attack: str, seed: int) -> None:
    """Attack a network, and repair it by every defense at every number of bonafide samples."""
    name = "".join(c if c.isalnum() else "-" for c in attack.lower())
    file, kept = RESULTS / f"{name}-seed{seed}.json", weights / f"{name}-seed{seed}.safetensors"
    draw = torch.Generator().manual_seed(seed)
    pool, theirs = split(train, [max(SIZES), len(train) - max(SIZES)], draw)
    (judged,) = split(test, [min(JUDGES, len(test))], draw)
    bad, trigger, target = ATTACKS[attack](theirs, draw)
    if not kept.exists():
        save_checkpoint(trained(bad, seed), kept)
    tampered = load_checkpoint(kept, preact_resnet(20))
    metrics = {"accuracy": Accuracy(judged, "bf16"), "attack success": AttackSuccess(judged, trigger, target, "bf16")}
    found = {name: as_record(value) for name, value in measure(tampered, metrics).items()}
    try:
        planted(tampered, judged, trigger, target, least=0.8)
    except BadInput as weak:
        write_json(file, {"attack": attack, "seed": seed, "refused": str(weak), "as received": found})
        return
    origin = provenance(seed, {"bonafide": pool, "judged": judged, "attacker's": bad})
    record = {"attack": attack, "seed": seed, "provenance": origin, "as received": found, "rows": {}}
    for n in SIZES:
        for row_name, defense in defenses(seed).items():
            row = compare({row_name: defense}, tampered, pool[:n], metrics, folder=RESULTS / "rows" / name)[0]
            record["rows"].setdefault(str(n), []).append(row)
            write_json(file, record)


def der(before: dict[str, Any], row: dict[str, Any]) -> float:
    """Defense effectiveness rating, a share (Zhu et al., ICCV 2023)."""
    fell = {name: before[name]["value"] - row[name]["value"] for name in ("accuracy", "attack success")}
    return (max(0.0, fell["attack success"]) - max(0.0, fell["accuracy"]) + 1) / 2


def table() -> str:
    """Mean and worst over attacks and seeds, for every defense and number of bonafide samples."""
    jobs = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    done = [job for job in jobs if "rows" in job]
    lines = ["# Bake-off on CIFAR-10", "", f"{len(done)} attacked networks; {GRADIENTS} gradients a setting.", ""]
    lines += [
        f"{job['attack']}, seed {job['seed']}, was left out: {job['refused']}." for job in jobs if "refused" in job
    ]
    for n in map(str, SIZES):
        lines += [
            "",
            f"## n = {n}",
            "",
            "| defense | networks | accuracy, mean | ASR, mean | ASR, worst | DER | minutes |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        rows = [(job["as received"], row) for job in done for row in job["rows"].get(n, []) if "refused" not in row]
        for name in dict.fromkeys(row["name"] for _, row in rows):
            mine = [(before, row) for before, row in rows if row["name"] == name]
            asr = [100 * row["attack success"]["value"] for _, row in mine]
            accuracy = mean(100 * row["accuracy"]["value"] for _, row in mine)
            rating, minutes = mean(100 * der(*each) for each in mine), mean(row["seconds"] / 60 for _, row in mine)
            lines.append(
                f"| {name} | {len(mine)} | {accuracy:.1f} | {mean(asr):.1f} | {max(asr):.1f} | {rating:.1f} | "
                f"{minutes:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("weights/bakeoff"))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.what == "table":
        print(table())
        return
    train, test = (load_data(str(args.data / f"{part}.parquet")) for part in ("train", "test"))
    for seed in args.seeds:
        for attack in args.attacks:
            job(train, test, args.weights, attack, seed)


if __name__ == "__main__":
    main()
