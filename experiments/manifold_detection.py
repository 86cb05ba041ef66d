"""Table: detection of adversarial inputs by their distance to training data, against eps.

    isthmus sweep experiments/manifold_detection.toml --set data=DIR       a file per job
    isthmus sweep experiments/manifold_detection.toml --gather             the results page

DIR holds train.parquet and test.parquet of MNIST, for manifold_detection_color.toml of CIFAR-10. A
job is a set, a network (seed) and a space (pixels, the penultimate layer, several layers); it
scores clean images, PGD-20 and noise of the same eps, corruptions and, with --set other=DIR, the
images of another set by every score, and at some eps an attacker who knows the detector. An
interrupted job goes on after the last score.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command import parts, use_threads
from pages import grouped, medians
from screening import SETUPS, Setup, drawn_parts, right, with_images
from torch import Tensor, nn

from isthmus import Data, Linf
from isthmus.attacks import PGD
from isthmus.detection import ManifoldDetector, evaluate, scores
from isthmus.detection.evaluation import signed_noise
from isthmus.evidence import detector_aware, provenance
from isthmus.metrics import Accuracy, Area, Rate, as_record
from isthmus.runs import read_json, write_json

WEIGHTS = Path("weights/manifold_detection")
CALIBRATION, JUDGED = 500, 500
AWARE = {"mnist": (0.09, 0.15, 0.30), "cifar10": (2 / 255, 8 / 255, 0.15)}
KNOWING = 200
"""How many images the attacker who knows the detector attacks."""


def attacked(net: nn.Module, data: Data, eps: float) -> Tensor:
    """PGD-20 with step eps / 8, as in the pilot."""
    ball = Linf(eps)
    return PGD(ball, steps=20, step=eps / 8, returns="worst")(net, data.floats(), data.y)


def at_eps(
    detector: ManifoldDetector, clean: Tensor, before: Tensor, moved: Tensor, noisy: Tensor
) -> dict[str, Any]:
    """Score attacked and noisy images; `before` are the scores at the eps before."""
    of_attack, of_noise = detector.score(moved), detector.score(noisy)
    threshold, n = detector.calibrated_threshold, len(clean)
    return {
        "median": float(of_attack.median()),
        "noise median": float(of_noise.median()),
        "auroc": as_record(Area.of(clean, of_attack)),
        "noise auroc": as_record(Area.of(clean, of_noise)),
        "flagged": as_record(Rate(int((of_attack > threshold).sum()), n)),
        "noise flagged": as_record(Rate(int((of_noise > threshold).sum()), n)),
        "farther than before": as_record(Rate(int((of_attack > before).sum()), n)),
        "scores": of_attack,
    }


def easy(data: Data, other: Data | None) -> dict[str, Tensor]:
    """Return corrupted images, and those of another set in this one's shape."""
    x = data.floats()
    drawn = torch.Generator().manual_seed(0)
    rows = {
        "Gaussian noise, 0.1": (x + 0.1 * torch.randn(x.shape, generator=drawn)).clamp(0, 1),
        "blur, 5 pixels": F.avg_pool2d(x, 5, 1, 2),
        "inverted": 1 - x,
    }
    if other is not None:
        foreign = F.interpolate(other[: len(data)].floats(), x.shape[2:], mode="bilinear")
        rows["another set"] = foreign.mean(1, keepdim=True).expand(-1, x.shape[1], -1, -1)
    return rows


def easy_rows(detector: ManifoldDetector, clean: Tensor, rows: dict[str, Tensor]) -> dict[str, Any]:
    """Return area and flagged share of each kind of easy input."""
    found = {}
    for name, x in rows.items():
        scored = detector.score(x.contiguous())
        flagged = int((scored > detector.calibrated_threshold).sum())
        area, share = Area.of(clean, scored), Rate(flagged, len(scored))
        found[name] = {"auroc": as_record(area), "flagged": as_record(share)}
    return found


def score_rows(
    detector: ManifoldDetector, net: nn.Module, data: Data, moved: dict[float, Tensor], name: str
) -> dict[str, Any]:
    """Return what one fitted detector does at every eps."""
    began = time.perf_counter()
    clean = detector.score(data.floats())
    row: dict[str, Any] = {
        "threshold": detector.calibrated_threshold.record(),
        "false positives": as_record(
            Rate(int((clean > detector.calibrated_threshold).sum()), len(clean))
        ),
        "median": float(clean.median()),
        "eps": {},
        "aware": {},
    }
    before = clean
    for eps, x in moved.items():
        noisy = signed_noise(data.floats(), Linf(eps))
        found = at_eps(detector, clean, before, x, noisy)
        before = found.pop("scores")
        row["eps"][f"{eps:.4g}"] = found
    few = data[:KNOWING]
    for eps in AWARE[name]:
        ball = Linf(eps)
        attack = PGD(ball, steps=20, step=eps / 8, returns="worst")
        judged = evaluate(detector, net, few, ball, attack, detector_aware(detector, ball))
        row["aware"][f"{eps:.4g}"] = judged.record()
    return {**row, "seconds": time.perf_counter() - began}


def run(
    set: str,
    seed: int,
    space: str,
    data: str,
    epochs: int,
    images: int,
    other: str,
    scratch: Path,
) -> dict[str, Any]:
    """Do one job, going on after the scores that it has.

    `epochs` is 0 for the set's own number, `images` how many the reference has, `other` the folder
    of another set, or "".
    """
    use_threads()
    file = scratch / "scores.json"
    done = read_json(file) if file.exists() else {}
    setup: Setup = SETUPS[set]
    layer = setup.spaces()[space]
    train, test = parts(data)
    net = setup.trained(train, seed, WEIGHTS / f"{set}-{seed}.safetensors", epochs)
    reference = drawn_parts(train, [min(images, len(train))], seed)[0]
    calibration, judged = drawn_parts(test, [CALIBRATION, 2 * JUDGED], seed)
    judged = right(net, judged)[:JUDGED]
    sample = with_images(judged, judged.floats())
    moved = {eps: attacked(net, sample, eps) for eps in setup.eps}
    simple = easy(sample, parts(other)[1] if other else None)
    for score in scores():
        if score in done or (score == "inconsistency" and space != "layers"):
            continue
        detector = ManifoldDetector(score, 20, layer).fit(reference, net)
        detector.calibrate(calibration)
        done[score] = score_rows(detector, net, sample, moved, set)
        clean = detector.score(sample.floats())
        done[score]["easy"] = easy_rows(detector, clean, simple)
        write_json(file, done)
    return {
        "set": set,
        "seed": seed,
        "space": space,
        "accuracy": as_record(Accuracy(test)(net)),
        "accuracy under attack": {
            f"{eps:.4g}": float(Accuracy(with_images(sample, x))(net)) for eps, x in moved.items()
        },
        "scores": done,
        "provenance": provenance(seed, {"reference": reference, "judged": judged}).record(),
    }


def table(jobs: list[dict[str, Any]]) -> str:
    """The tables of the results page."""
    lines = [
        "# Detection by distance to training data",
        "",
        "Middle (least to most) over the networks. PGD-20; noise: random signs times eps. Made by",
        "`isthmus sweep experiments/manifold_detection.toml --gather`.",
    ]
    for (name, space), own in grouped(jobs, "set", "space").items():
        lines += ["", f"## {name}, {space}, {len(own)} networks", ""]
        lines += by_eps(own)
        lines += ["", *of_easy(own)]
        lines += ["", "An attacker who knows the detector, the weight that fools most:", ""]
        lines += aware_rows(own)
    return "\n".join(lines) + "\n"


def by_eps(jobs: list[dict[str, Any]]) -> list[str]:
    """AUROC of the attack, and of noise, at every eps."""
    lines = [
        "| score | eps | median | AUROC | noise AUROC | flagged | noise flagged | farther |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for score in jobs[0]["scores"]:
        for eps in jobs[0]["scores"][score]["eps"]:
            rows = [job["scores"][score]["eps"][eps] for job in jobs if score in job["scores"]]
            cells = [medians([row["median"] for row in rows])]
            for key in ("auroc", "noise auroc", "flagged", "noise flagged", "farther than before"):
                cells.append(medians([row[key]["value"] for row in rows]))
            lines.append(f"| {score} | {eps} | {' | '.join(cells)} |")
    return lines


def of_easy(jobs: list[dict[str, Any]]) -> list[str]:
    """AUROC of corruptions and of another set."""
    lines = ["| score | inputs | AUROC | flagged |", "|---|---|---|---|"]
    for score in jobs[0]["scores"]:
        for name in jobs[0]["scores"][score]["easy"]:
            rows = [job["scores"][score]["easy"][name] for job in jobs if score in job["scores"]]
            cells = [medians([row[key]["value"] for row in rows]) for key in ("auroc", "flagged")]
            lines.append(f"| {score} | {name} | {' | '.join(cells)} |")
    return lines


def aware_rows(jobs: list[dict[str, Any]]) -> list[str]:
    """The weight of the largest share that fools both."""
    lines = ["| score | eps | AUROC | flagged | fools both |", "|---|---|---|---|---|"]
    for score in jobs[0]["scores"]:
        for eps in jobs[0]["scores"][score]["aware"]:
            worst = []
            for job in jobs:
                if score in job["scores"]:
                    rows = job["scores"][score]["aware"][eps]["rows"][2:]
                    worst.append(max(rows, key=lambda row: row["undetected"]["value"]))
            cells = [
                medians([row[key]["value"] for row in worst])
                for key in ("auroc", "detected", "undetected")
            ]
            lines.append(f"| {score} | {eps} | {' | '.join(cells)} |")
    return lines
