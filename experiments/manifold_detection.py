"""Table: detection of adversarial inputs by their distance to training data, against eps.

    isthmus sweep experiments/manifold_detection.toml --set data=DIR       a file per job
    isthmus sweep experiments/manifold_detection.toml --gather             the tables of the page

DIR holds train.parquet and test.parquet of MNIST, for manifold_detection_color.toml of CIFAR-10. A
job is a set, a network (seed) and a space (pixels, the penultimate layer, several layers); it
scores clean images, PGD-20 and noise of the same eps, corruptions and, with --set other=DIR, the
images of another set by every score, and at some eps an attacker who knows the detector. An
interrupted job goes on after the last score.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command import parts, use_threads
from pages import grouped
from screening import (
    EPS,
    GRID,
    SETUPS,
    SMALL,
    area_of,
    drawn_parts,
    rate_of,
    right,
    with_images,
    with_interval,
)
from torch import Tensor, nn

from isthmus import Data, Linf
from isthmus.attacks import PGD
from isthmus.detection import ManifoldDetector, evaluate, scores
from isthmus.detection.evaluation import signed_noise
from isthmus.evidence import detector_aware, provenance
from isthmus.metrics import Accuracy, Area, Rate, as_record
from isthmus.runs import read_json, write_json

WEIGHTS = Path("weights/manifold_detection")
CALIBRATION = 500
Scored = dict[float, Tensor]
AWARE = {"mnist": (0.30,), "cifar16": (0.15,)}


@dataclass(frozen=True)
class Sizes:
    """How large a job is, by the names of the sweep's settings.

    `epochs` is 0 for the set's own number, `images` how many the reference has, `judged` how many
    are attacked, `knowing` how many of them by the attacker who knows the detector and takes
    `steps` steps.
    """

    epochs: float
    images: int
    judged: int
    knowing: int
    steps: int


@dataclass(frozen=True, eq=False)
class Asked:
    """What detectors are asked about: images that the network gets right, these attacked at every
    eps, and inputs that are easily told.
    """

    sample: Data
    moved: dict[float, Tensor]
    easy: dict[str, Tensor]

    @classmethod
    def of(cls, net: nn.Module, data: Data, other: Data | None) -> Asked:
        """Return what is made of samples that the network gets right, and of another set."""
        sample = with_images(data, data.floats())
        return cls(sample, {eps: attacked(net, sample, eps) for eps in EPS}, easy(sample, other))


def attacked(net: nn.Module, data: Data, eps: float) -> Tensor:
    """PGD-20 with step eps / 8, as in the pilot."""
    return _pgd(eps)(net, data.floats(), data.y)


def _pgd(eps: float) -> PGD:
    return PGD(Linf(eps), steps=20, step=eps / 8, returns="worst")


def key(eps: float) -> str:
    """Return an eps as it stands in the records."""
    return f"{eps:.4g}"


def before(eps: float) -> float:
    """Return the eps before in its own series, 0 for the first."""
    series = SMALL if eps in SMALL else GRID
    place = series.index(eps)
    return series[place - 1] if place else 0.0


def at_eps(detector: ManifoldDetector, data: Data, scored: Scored, eps: float) -> dict[str, Any]:
    """Compare scores of attacked images with clean ones, and with those at the eps before."""
    clean, of_attack, nearer = scored[0.0], scored[eps], scored[before(eps)]
    of_noise = detector.score(signed_noise(data.floats(), Linf(eps)))
    threshold, n = detector.calibrated_threshold, len(clean)
    return {
        "median": float(of_attack.median()),
        "noise median": float(of_noise.median()),
        "auroc": as_record(Area.of(clean, of_attack)),
        "noise auroc": as_record(Area.of(clean, of_noise)),
        "flagged": as_record(Rate(int(threshold.flags(of_attack).sum()), n)),
        "noise flagged": as_record(Rate(int(threshold.flags(of_noise).sum()), n)),
        "farther than before": as_record(Rate(int((of_attack > nearer).sum()), n)),
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


def easy_rows(detector: ManifoldDetector, asked: Asked) -> dict[str, Any]:
    """Return area and flagged share of each kind of easy input."""
    clean, found = detector.score(asked.sample.floats()), {}
    for name, x in asked.easy.items():
        scored = detector.score(x.contiguous())
        flagged = int(detector.calibrated_threshold.flags(scored).sum())
        area, share = Area.of(clean, scored), Rate(flagged, len(scored))
        found[name] = {"auroc": as_record(area), "flagged": as_record(share)}
    return found


def score_rows(detector: ManifoldDetector, asked: Asked) -> dict[str, Any]:
    """Return what one fitted detector does at every eps."""
    clean = detector.score(asked.sample.floats())
    threshold = detector.calibrated_threshold
    scored = {0.0: clean} | {eps: detector.score(x) for eps, x in asked.moved.items()}
    return {
        "threshold": threshold.record(),
        "false positives": as_record(Rate(int(threshold.flags(clean).sum()), len(clean))),
        "median": float(clean.median()),
        "eps": {key(eps): at_eps(detector, asked.sample, scored, eps) for eps in asked.moved},
    }


def aware_rows(
    detector: ManifoldDetector, net: nn.Module, few: Data, radii: tuple[float, ...], steps: int
) -> dict[str, Any]:
    """Return the three rows at each eps: PGD, noise, and the attacker who knows the detector."""
    rows = {}
    for eps in radii:
        aware = detector_aware(detector, Linf(eps), steps)
        rows[key(eps)] = evaluate(detector, net, few, Linf(eps), _pgd(eps), aware).record()
    return rows


def run(
    set: str, seed: int, space: str, data: str, scratch: Path, other: str = "", **sizes: Any
) -> dict[str, Any]:
    """Do one job, going on after the scores that it has.

    `other` is the folder of another set, or "", and `sizes` are those of `Sizes`.
    """
    size = Sizes(**sizes)
    use_threads()
    file = scratch / "scores.json"
    done = read_json(file) if file.exists() else {}
    setup = SETUPS[set]
    layer = setup.spaces()[space]
    train, test = setup.parts(data)
    net = setup.trained(train, seed, WEIGHTS / f"{set}-{seed}.safetensors", size.epochs)
    reference = drawn_parts(train, [min(size.images, len(train))], seed)[0]
    calibration, drawn = drawn_parts(test, [CALIBRATION, 2 * size.judged], seed)
    drawn = right(net, drawn)[: size.judged]
    asked = Asked.of(net, drawn, parts(other)[1] if other else None)
    few = asked.sample[: size.knowing]
    for score in scores():
        if score in done or (score == "inconsistency" and space != "layers"):
            continue
        began = time.process_time()
        detector = ManifoldDetector(score, 20, layer).fit(reference, net).calibrate(calibration)
        done[score] = {
            **score_rows(detector, asked),
            "aware": aware_rows(detector, net, few, AWARE[set], size.steps),
            "easy": easy_rows(detector, asked),
            "cpu seconds": time.process_time() - began,
        }
        write_json(file, done)
    return {
        "set": set,
        "seed": seed,
        "space": space,
        "accuracy": as_record(Accuracy(test)(net)),
        "accuracy under attack": {
            key(eps): float(Accuracy(with_images(asked.sample, x))(net))
            for eps, x in asked.moved.items()
        },
        "scores": done,
        "provenance": provenance(seed, {"reference": reference, "judged": drawn}).record(),
    }


Jobs = list[dict[str, Any]]


def table(jobs: Jobs) -> str:
    """The tables of the results page."""
    lines = [
        "# Detection by distance to training data",
        "",
        "Made by `isthmus sweep experiments/manifold_detection.toml --gather`, for CIFAR-10 with",
        "`manifold_detection_color.toml`. PGD-20, step eps / 8; noise: random signs times eps.",
        "Means over networks; intervals are 95 %, of the images of all networks together. What it",
        "comes to is told in [screening inputs](../detection.md#what-to-believe).",
    ]
    for (name,), of_set in grouped(jobs, "set").items():
        lines += ["", f"## {name}", "", *networks(of_set)]
        for (space,), own in grouped(of_set, "space").items():
            lines += ["", f"### {name}, {space}", "", *of_space(own)]
    return "\n".join(lines) + "\n"


def networks(jobs: Jobs) -> list[str]:
    """Accuracy of the networks, clean and under attack."""
    first = [own[0] for own in grouped(jobs, "seed").values()]
    lines = [row(["network", "accuracy", *map(_shown, EPS)]), "|---" * (len(EPS) + 2) + "|"]
    for job in first:
        under = [f"{job['accuracy under attack'][key(eps)]:.2f}" for eps in EPS]
        lines.append(row([f"seed {job['seed']}", f"{job['accuracy']['value']:.3f}", *under]))
    return lines


def of_space(jobs: Jobs) -> list[str]:
    """All tables of one set and space."""
    seeds = len(jobs)
    return [
        f"{seeds} networks. AUROC of the attack / of noise:",
        "",
        *against_eps(jobs, _areas, EPS),
        "",
        "Median score over that of clean images:",
        "",
        *against_eps(jobs, _ratio, EPS),
        "",
        "Share of images that are farther than at the eps before:",
        "",
        *against_eps(jobs, _farther, EPS),
        "",
        "With intervals; flagged at 5 % nominal, attack / noise:",
        "",
        *at_chosen(jobs),
        "",
        "Corruptions and other images, AUROC / flagged:",
        "",
        *of_easy(jobs),
        "",
        "An attacker who knows the detector, at the weight that fools most:",
        "",
        *of_aware(jobs),
    ]


def row(cells: list[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def _shown(eps: float) -> str:
    return f"{round(eps * 255)}/255" if eps in SMALL else f"{eps:.2f}"


def _at(jobs: Jobs, score: str, eps: float) -> Jobs:
    return [job["scores"][score]["eps"][key(eps)] for job in jobs]


def _areas(jobs: Jobs, score: str, eps: float) -> str:
    rows = _at(jobs, score, eps)
    attack, noise = (area_of([r[name] for r in rows]) for name in ("auroc", "noise auroc"))
    return f"{attack:.2f} / {noise:.2f}"


def _ratio(jobs: Jobs, score: str, eps: float) -> str:
    pairs = zip(_at(jobs, score, eps), jobs, strict=True)
    ratios = [at["median"] / job["scores"][score]["median"] for at, job in pairs]
    return f"{sum(ratios) / len(ratios):.2f}"


def _farther(jobs: Jobs, score: str, eps: float) -> str:
    return f"{rate_of([r['farther than before'] for r in _at(jobs, score, eps)]):.3f}"


def against_eps(jobs: Jobs, cell: Any, radii: tuple[float, ...]) -> list[str]:
    """A row per score, a column per eps."""
    lines = [row(["score", *map(_shown, radii)]), "|---" * (len(radii) + 1) + "|"]
    for score in jobs[0]["scores"]:
        lines.append(row([score, *(cell(jobs, score, eps) for eps in radii)]))
    return lines


def at_chosen(jobs: Jobs) -> list[str]:
    """AUROC with intervals and what the calibrated threshold flags, at three eps."""
    radii = (8 / 255, 0.15, 0.30)
    heads = [f"{what} {_shown(eps)}" for eps in radii for what in ("AUROC", "flagged")]
    lines = [row(["score", "clean flagged", *heads]), "|---" * 8 + "|"]
    for score in jobs[0]["scores"]:
        clean = rate_of([job["scores"][score]["false positives"] for job in jobs])
        cells = [score, with_interval(clean, 3)]
        for eps in radii:
            rows = _at(jobs, score, eps)
            attack, noise = (rate_of([r[n] for r in rows]) for n in ("flagged", "noise flagged"))
            cells += [with_interval(area_of([r["auroc"] for r in rows]), 3)]
            cells += [f"{attack:.2f} / {noise:.2f}"]
        lines.append(row(cells))
    return lines


def of_easy(jobs: Jobs) -> list[str]:
    """AUROC and flagged share of corruptions and of another set."""
    kinds = list(next(iter(jobs[0]["scores"].values()))["easy"])
    lines = [row(["score", *kinds]), "|---" * (len(kinds) + 1) + "|"]
    for score in jobs[0]["scores"]:
        cells = [score]
        for kind in kinds:
            rows = [job["scores"][score]["easy"][kind] for job in jobs]
            area, share = area_of([r["auroc"] for r in rows]), rate_of([r["flagged"] for r in rows])
            cells.append(f"{area:.2f} / {share:.2f}")
        lines.append(row(cells))
    return lines


def of_aware(jobs: Jobs) -> list[str]:
    """The weight of the largest share that fools both, beside PGD on the same images."""
    lines = [
        row(["score", "eps", "PGD AUROC", "fools both", "aware AUROC", "flagged", "fools both"]),
        "|---" * 7 + "|",
    ]
    for score in jobs[0]["scores"]:
        for eps in jobs[0]["scores"][score]["aware"]:
            plain, worst = [], []
            for job in jobs:
                rows = job["scores"][score]["aware"][eps]["rows"]
                plain.append(rows[0])
                worst.append(max(rows[2:], key=lambda r: r["undetected"]["value"]))
            cells = [score, eps, f"{area_of([r['auroc'] for r in plain]):.2f}"]
            cells += [f"{rate_of([r['undetected'] for r in plain]):.2f}"]
            cells += [f"{area_of([r['auroc'] for r in worst]):.2f}"]
            cells += [f"{rate_of([r['detected'] for r in worst]):.2f}"]
            cells += [with_interval(rate_of([r["undetected"] for r in worst]))]
            lines.append(row(cells))
    return lines
