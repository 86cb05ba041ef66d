"""Table: are triggered inputs far from trusted data in the features of the tampered network, and in
those of the repaired one?

    isthmus sweep experiments/trigger_detection.toml --set data=DIR     a file per job
    isthmus sweep experiments/trigger_detection.toml --gather           the results page

A job is a set, a trigger and a seed: a network is trained on poisoned data and repaired with
bonafide ones; each of several scores is fitted to bonafide images in pixels and in the penultimate
features of both networks, and told triggered test images from clean ones. The last row is an
attacker who moves triggered images by up to 8/255 until they look like trusted ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from command import parts, slug, use_threads
from pages import grouped, medians
from screening import SETUPS, drawn_parts, with_images
from torch import nn

from isthmus import Data, Linf, repair
from isthmus.attacks import Blend, LowFrequency, Patch, Sinusoid, Warp, poison
from isthmus.detection import ManifoldDetector
from isthmus.evidence import detector_aware, provenance
from isthmus.metrics import Accuracy, Area, AttackSuccess, Rate, as_record, triggered
from isthmus.models import load_checkpoint, save_checkpoint
from isthmus.types import Trigger

WEIGHTS = Path("weights/trigger_detection")
TARGET, RATE, BONAFIDE, CALIBRATION = 1, 0.05, 2000, 500
SCORES = ("knn", "lle", "tangent", "mahalanobis")
TRIGGERS: dict[str, Trigger] = {
    "patch": Patch(size=3),
    "blend": Blend(),
    "sinusoid": Sinusoid(),
    "low frequency": LowFrequency(),
    "warp": Warp(),
}
MOVED = Linf(8 / 255)
WEIGHT = 10.0


def networks(
    job: str,
    name: str,
    trigger: Trigger,
    seed: int,
    train: Data,
    bonafide: Data,
    epochs: int,
) -> dict[str, nn.Module]:
    """Return the tampered network and the repaired one."""
    setup = SETUPS[name]
    drawn = torch.Generator().manual_seed(seed)
    bad = poison(train, trigger, rate=RATE, target=TARGET, generator=drawn)
    tampered = setup.trained(bad, seed, WEIGHTS / f"{job}-tampered.safetensors", epochs)
    file = WEIGHTS / f"{job}-repaired.safetensors"
    if file.exists():
        repaired = load_checkpoint(file, setup.network()).eval()
    else:
        repaired = repair(tampered, bonafide, seed=seed, augment=setup.augment).model
        save_checkpoint(repaired, file)
    return {"tampered": tampered, "repaired": repaired}


def row(detector: ManifoldDetector, clean: Data, bad: Data, net: nn.Module) -> dict[str, Any]:
    """Tell triggered images from clean ones, and those moved to look like trusted ones."""
    own = detector.score(clean.x)
    threshold = detector.calibrated_threshold
    moved = detector_aware(detector, MOVED)(WEIGHT)(net, bad.floats(), clean.y)
    rows = {}
    for name, data in {"triggered": bad, "aware": with_images(bad, moved)}.items():
        scores = detector.score(data.x)
        flagged = scores > threshold
        rows[name] = {
            "auroc": as_record(Area.of(own, scores)),
            "flagged": as_record(Rate(int(flagged.sum()), len(flagged))),
            "attack success": as_record(Accuracy(data)(net)),
        }
    return rows


def job_name(set: str, trigger: str, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{set}-{slug(trigger)}-seed{seed}"


def run(
    set: str, trigger: str, seed: int, data: str, epochs: int, judged: int, job: str
) -> dict[str, Any]:
    """Do one job. `epochs` is 0 for the set's own number, `judged` how many images are judged."""
    use_threads()
    setup, carried = SETUPS[set], TRIGGERS[trigger]
    train, test = parts(data)
    bonafide, calibration, evaluation = drawn_parts(test, [BONAFIDE, CALIBRATION, 2 * judged], seed)
    evaluation = evaluation[evaluation.y != TARGET][:judged]
    nets = networks(job, set, carried, seed, train, bonafide, epochs)
    bad = triggered(evaluation, carried, TARGET)
    success = AttackSuccess(evaluation, carried, TARGET)
    found: dict[str, Any] = {}
    for owner, net in nets.items():
        for space, layer in {"pixels": None, "penultimate": setup.last}.items():
            for score in SCORES:
                detector = ManifoldDetector(score, 20, layer).fit(bonafide, net)
                detector.calibrate(calibration)
                found[f"{owner}, {space}, {score}"] = row(detector, evaluation, bad, net)
    return {
        "set": set,
        "trigger": trigger,
        "seed": seed,
        "accuracy": {owner: as_record(Accuracy(evaluation)(net)) for owner, net in nets.items()},
        "attack success": {owner: as_record(success(net)) for owner, net in nets.items()},
        "rows": found,
        "provenance": provenance(seed, {"bonafide": bonafide, "evaluation": evaluation}).record(),
    }


def table(jobs: list[dict[str, Any]]) -> str:
    """The tables of the results page."""
    lines = [
        "# Triggers seen in features",
        "",
        "Middle (least to most) over seeds. Aware: triggered images moved by up to 8/255 to look",
        "like trusted ones. Made by `isthmus sweep experiments/trigger_detection.toml --gather`.",
    ]
    for (name, carried), own in grouped(jobs, "set", "trigger").items():
        heads = [
            f"attack success {owner} {medians([j['attack success'][owner]['value'] for j in own])}"
            for owner in ("tampered", "repaired")
        ]
        lines += ["", f"## {name}, {carried}, {len(own)} seeds", "", "; ".join(heads) + ".", ""]
        lines += [
            "| features, score | AUROC | flagged | aware AUROC | aware flagged | aware success |",
            "|---|---|---|---|---|---|",
        ]
        for key in own[0]["rows"]:
            plain = [job["rows"][key]["triggered"] for job in own]
            aware = [job["rows"][key]["aware"] for job in own]
            cells = [medians([r[c]["value"] for r in plain]) for c in ("auroc", "flagged")]
            names = ("auroc", "flagged", "attack success")
            cells += [medians([r[c]["value"] for r in aware]) for c in names]
            lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
