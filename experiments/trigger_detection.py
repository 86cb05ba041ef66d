"""Table: are triggered inputs far from trusted data in the features of the tampered network, and in
those of the repaired one?

    isthmus sweep experiments/trigger_detection.toml --set data=DIR     a file per job
    isthmus sweep experiments/trigger_detection.toml --gather           the tables of the page

DIR holds MNIST, for trigger_detection_color.toml CIFAR-10. A job is a set, a trigger and a seed: a
network is trained on poisoned data and repaired with bonafide ones; each of several scores is
fitted to bonafide images in pixels and in the penultimate features of both networks, and told
triggered test images from clean ones. Aware is an attacker who moves triggered images by up to
8/255 until they look like trusted ones. One score is asked at every t of the path as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command import slug, use_threads
from pages import grouped, ranged
from screening import SETUPS, Setup, area_of, drawn_parts, rate_of, with_images, with_interval
from torch import Tensor, nn

from isthmus import Data, Linf, evaluate_path, repair
from isthmus.attacks import Blend, LowFrequency, Patch, Sinusoid, Warp, poison
from isthmus.detection import DetectionArea, ManifoldDetector
from isthmus.evidence import detector_aware, provenance
from isthmus.metrics import Accuracy, Area, AttackSuccess, Rate, as_record, triggered
from isthmus.types import Trigger

WEIGHTS = Path("weights/trigger_detection")
TARGET, RATE, BONAFIDE, CALIBRATION = 1, 0.05, 2000, 500
SCORES = ("knn", "lle", "mahalanobis")
ALONG = (0.0, 0.25, 0.5, 0.75, 1.0)
MOVED = Linf(8 / 255)
WEIGHT = 10.0


def trigger_of(name: str, setup: Setup) -> Trigger:
    """Return a trigger for the images of a set."""
    kinds: dict[str, Trigger] = {
        "patch": Patch(size=setup.patch),
        "blend": Blend(),
        "sinusoid": Sinusoid(),
        "low frequency": LowFrequency(),
        "warp": Warp(),
    }
    return kinds[name]


@dataclass(frozen=True)
class Triggering:
    """A trigger as a change of inputs that reads neither network nor labels."""

    trigger: Trigger
    gradients: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the triggered images."""
        return self.trigger(x)


def row(
    detector: ManifoldDetector, clean: Data, bad: Data, net: nn.Module, knowing: int, steps: int
) -> dict[str, Any]:
    """Tell triggered images from clean ones, and those moved to look like trusted ones."""
    own = detector.score(clean.x)
    few, true = bad[:knowing], clean.y[:knowing]
    moved = detector_aware(detector, MOVED, steps)(WEIGHT)(net, few.floats(), true)
    rows = {}
    for name, data in {"triggered": bad, "aware": with_images(few, moved)}.items():
        scores = detector.score(data.x)
        flagged = detector.calibrated_threshold.flags(scores)
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
    set: str,
    trigger: str,
    seed: int,
    data: str,
    epochs: float,
    repair_steps: int,
    judged: int,
    knowing: int,
    steps: int,
    job: str,
) -> dict[str, Any]:
    """Do one job.

    `epochs` is 0 for the set's own number, `judged` how many images are judged, `knowing` how many
    of them are moved by the attacker who knows the detector and takes `steps` steps.
    """
    use_threads()
    setup = SETUPS[set]
    carried = trigger_of(trigger, setup)
    train, test = setup.parts(data)
    bonafide, calibration, drawn = drawn_parts(test, [BONAFIDE, CALIBRATION, 2 * judged], seed)
    evaluation = drawn[drawn.y != TARGET][:judged]
    generator = torch.Generator().manual_seed(seed)
    poisoned = poison(train, carried, rate=RATE, target=TARGET, generator=generator)
    tampered = setup.trained(poisoned, seed, WEIGHTS / f"{job}.safetensors", epochs)
    repaired = repair(tampered, bonafide, seed=seed, augment=setup.augment, steps=repair_steps)
    bad = triggered(evaluation, carried, TARGET)
    places = {
        "pixels": (tampered, None),
        "tampered": (tampered, setup.last),
        "repaired": (repaired.model, setup.last),
    }
    found: dict[str, dict[str, Any]] = {}
    for place, (net, layer) in places.items():
        for score in SCORES:
            detector = ManifoldDetector(score, 20, layer).fit(bonafide, net).calibrate(calibration)
            found.setdefault(place, {})[score] = row(detector, evaluation, bad, net, knowing, steps)
    success = AttackSuccess(evaluation, carried, TARGET)
    area = DetectionArea(evaluation, bonafide, Triggering(carried), "lle", 20, setup.last)
    path = evaluate_path(repaired.networks, {"area": area, "attack success": success}, ALONG)
    nets = {"tampered": tampered, "repaired": repaired.model}
    return {
        "set": set,
        "trigger": trigger,
        "seed": seed,
        "t": float(repaired.t),
        "accuracy": {owner: as_record(Accuracy(evaluation)(net)) for owner, net in nets.items()},
        "attack success": {owner: as_record(success(net)) for owner, net in nets.items()},
        "rows": found,
        "path": {name: [as_record(v) for v in path.values[name]] for name in path.values},
        "provenance": provenance(seed, {"bonafide": bonafide, "evaluation": evaluation}).record(),
    }


Jobs = list[dict[str, Any]]


def table(jobs: Jobs) -> str:
    """The tables of the results page."""
    lines = [
        "# Triggers seen in features",
        "",
        "Made by `isthmus sweep experiments/trigger_detection.toml --gather`, for CIFAR-10 with",
        "`trigger_detection_color.toml`. Means over networks with the 95 % interval of all their",
        "images; in brackets after a mean of networks the least and the most, %. Aware: triggered",
        "images moved by up to 8/255 to look like trusted ones, of which `success` still reach the",
        "target. What it comes to is told in",
        "[screening inputs](../detection.md#what-to-believe).",
    ]
    for (name,), own in grouped(jobs, "set").items():
        lines += ["", f"## {name}", "", *networks(own), "", *detection(own), "", *along(own)]
    return "\n".join(lines) + "\n"


def networks(jobs: Jobs) -> list[str]:
    """What the networks do."""
    lines = [
        "| trigger | networks | tampered: accuracy | success | repaired: accuracy | success |",
        "|---" * 6 + "|",
    ]
    for (carried,), own in grouped(jobs, "trigger").items():
        cells = [
            ranged([job[what][owner]["value"] for job in own], 1)
            for owner in ("tampered", "repaired")
            for what in ("accuracy", "attack success")
        ]
        lines.append(f"| {carried} | {len(own)} | {' | '.join(cells)} |")
    return lines


def detection(jobs: Jobs) -> list[str]:
    """What each score tells in each space."""
    lines = [
        "| trigger | features | score | AUROC | least to most | flagged | aware AUROC | flagged |"
        " success |",
        "|---" * 9 + "|",
    ]
    for (carried,), own in grouped(jobs, "trigger").items():
        for place, scores in own[0]["rows"].items():
            for score in scores:
                rows = [job["rows"][place][score] for job in own]
                plain, aware = ([r[kind] for r in rows] for kind in ("triggered", "aware"))
                areas = [r["auroc"]["value"] for r in plain]
                cells = [
                    carried,
                    place,
                    score,
                    with_interval(area_of([r["auroc"] for r in plain])),
                    f"{min(areas):.2f} to {max(areas):.2f}",
                    f"{rate_of([r['flagged'] for r in plain]):.2f}",
                    f"{area_of([r['auroc'] for r in aware]):.2f}",
                    f"{rate_of([r['flagged'] for r in aware]):.2f}",
                    f"{rate_of([r['attack success'] for r in aware]):.2f}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def along(jobs: Jobs) -> list[str]:
    """AUROC of one score in the features of every network of the path."""
    lines = [
        "Along the path of the repair, lle in each network's own features: AUROC / attack success.",
        "",
        "| trigger | chosen t | " + " | ".join(f"t = {t:g}" for t in ALONG) + " |",
        "|---" * (len(ALONG) + 2) + "|",
    ]
    for (carried,), own in grouped(jobs, "trigger").items():
        cells = [carried, ", ".join(f"{job['t']:.2f}" for job in own)]
        for i in range(len(ALONG)):
            area, success = (
                [job["path"][name][i] for job in own] for name in ("area", "attack success")
            )
            cells.append(f"{area_of(area):.2f} / {rate_of(success):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
