"""`isthmus detect`: how far inputs are from trusted data."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from isthmus import data, detection, evidence, runs
from isthmus.cli import checks, words
from isthmus.cli.inputs import load_samples, network_if_given
from isthmus.cli.options import Clean, InputFile, ModelSpec, Number, Samples, Whole
from isthmus.cli.output import say
from isthmus.cli.terminal import lines_in
from isthmus.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table
    from torch import Tensor, nn

    from isthmus.data import Ball, Data
    from isthmus.detection import Evaluation, ManifoldDetector, Threshold

Value = TypeVar("Value")
ScoreName = Literal["knn", "linf", "kde", "lle", "tangent", "mahalanobis", "inconsistency"]
IndexName = Literal["exact", "approximate"]

LEAVES = ("detector.safetensors",)
"""What fit writes before its report, and leaves where it is killed."""

CALIBRATING = 0.25
"""The share of the clean samples that sets the threshold; the others are the reference."""


@Parameter(name="*")
@dataclass(frozen=True)
class DetectorOptions:
    """What `fit` makes.

    :param score: How the distance is measured.
    :param neighbors: How many reference samples an input is compared with.
    :param layer: Measure it in the features of this layer; several with commas. By default in
        pixels.
    :param index: How the nearest of them are found: exact, or approximate, for references of a
        hundred thousand samples and more; the report says what share it finds.
    :param false_positive_rate: Share of clean inputs that may be flagged.
    :param seed: Seed of the split of the clean samples into reference and calibration.
    """

    score: ScoreName = "lle"
    neighbors: Whole = 20
    layer: str | None = None
    index: IndexName = "exact"
    false_positive_rate: Number = 0.05
    seed: Whole = 0

    def fitted(self, samples: Data, network: nn.Module | None) -> ManifoldDetector:
        """Return the detector with its threshold, from samples of which none comes twice: a copy of
        a reference sample would be no calibration sample. Raises BadInput as its methods do.
        """
        samples = data.without_copies(samples, "clean")
        held = max(1, round(CALIBRATING * len(samples)))
        if held == len(samples):
            raise BadInput(
                "one clean sample", expected="some hundreds", fix="give more trusted samples"
            )
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        reference, calibration = data.split(samples, [len(samples) - held, held], generator)
        layers = None if self.layer is None else tuple(self.layer.split(","))
        detector = detection.ManifoldDetector(self.score, self.neighbors, layers, self.index)
        detector.fit(reference, network)
        return detector.calibrate(calibration, self.false_positive_rate)


@Parameter(name="*")
@dataclass(frozen=True)
class EvasionOptions:
    """What `evaluate` runs.

    :param eps: Radii (l-inf) in units of images in [0, 1], as 0.01,8/255.
    :param attack_steps: Steps of PGD; the attacker who knows the detector takes three times as
        many.
    :param weights: How much the attacker who knows the detector cares for its score.
    """

    eps: str = "2/255,8/255,0.1"
    attack_steps: Whole = 20
    weights: str = "0.1,1,10"

    def balls(self, shape: Sequence[int]) -> list[Ball]:
        """Return the balls for images (c, h, w). Raises BadInput as `words.parse_balls` does."""
        return [words.parse_balls(None, radius, shape)[0] for radius in self.eps.split(",")]

    def weighing(self) -> list[float]:
        """Return the weights. Raises BadInput where one is no number."""
        return words.parse_numbers(self.weights, "weights")


def detect_command(
    action: Literal["fit", "score", "evaluate"],
    checkpoint: InputFile | None = None,
    *,
    model: ModelSpec | None = None,
    clean: Clean | None = None,
    samples: Annotated[
        tuple[Samples, ...], Parameter(name="--data", consume_multiple=True, negative="")
    ] = (),
    detector: Annotated[File | None, Parameter(validator=checks.existing)] = None,
    out: File | None = None,
    made: DetectorOptions = DetectorOptions(),
    evasion: EvasionOptions = EvasionOptions(),
) -> None:
    """Flag inputs that are far from trusted data.

    fit learns what --clean looks like, sets the threshold on a part of it, and writes
    detector.safetensors, report.json and report.html into --out. score reads --data file by file
    and prints a line of JSON for each input; exit status 1 says that some are flagged, 2 that a
    file could not be scored, as images of another size cannot: it ends there. evaluate says what
    the detector does to an attack, to noise of the same size, and to an attacker who knows it, and
    writes report.json and report.html into --out; an interrupted run starts over.

    :param action: What to do: fit, score or evaluate.
    :param checkpoint: The network; a detector of pixels needs none, but one that is to be evaluated
        has to be fitted with it.
    :param out: A new or empty folder for what fit or evaluate writes.
    :param samples: Inputs of score: images, folders, .npz, Parquet, named sets, or stdin
        for names of files on standard input. Of evaluate: labeled samples.
    :param detector: The detector.safetensors that fit wrote, for score and evaluate.
    """
    if (checkpoint is None) != (model is None):
        raise BadInput(
            "a checkpoint or --model alone", expected="both or none", fix="give the other one too"
        )
    given = {"data": samples, "detector": detector, "clean": clean, "out": out}
    _check_used(action, given, made, evasion)
    match action:
        case "fit":
            folder = _folder(out, LEAVES)
            _fit(checkpoint, model, _given(clean, "--clean"), folder, made)
        case "score":
            held = _loaded(checkpoint, model, _given(detector, "--detector"))
            _score(held, _given(samples, "--data"))
        case "evaluate":
            weights = _given(checkpoint, "checkpoint")
            folder = _folder(out)
            held = _loaded(checkpoint, model, _given(detector, "--detector"))
            _evaluate(held, _given(samples, "--data"), weights, folder, evasion)


def _check_used(
    action: str, given: Mapping[str, object], made: DetectorOptions, evasion: EvasionOptions
) -> None:
    """Raise BadInput where something is given that the action does not read."""
    unread = {
        "fit": ("data", "detector"),
        "score": ("clean", "out"),
        "evaluate": ("clean",),
    }
    names = [name for name in unread[action] if given[name]]
    names += checks.changed(made) if action != "fit" else []
    names += checks.changed(evasion) if action != "evaluate" else []
    checks.without_effect(names, on=f"detect {action}")


def _given(value: Value | None, name: str) -> Value:
    """Return the value of an option. Raises BadInput where it was left out."""
    if value is None or value == ():
        raise BadInput(f"no {name}", expected="it for this action", fix="see isthmus detect --help")
    return value


def _folder(out: File | None, leaves: Sequence[str] = ()) -> File:
    """Return the folder of --out. Raises BadInput where it was left out, or holds anything but what
    a killed run `leaves`.
    """
    folder = _given(out, "--out")
    checks.unclaimed(folder, resume=None, leaves=leaves)
    return folder


def _loaded(checkpoint: File | None, model: ModelSpec | None, file: File) -> ManifoldDetector:
    return detection.ManifoldDetector.load(file, network_if_given(model, checkpoint))


def _fit(
    checkpoint: File | None, model: ModelSpec | None, clean: str, out: File, made: DetectorOptions
) -> None:
    samples = load_samples(clean)
    identity = {
        "command": "detect fit",
        "model": None if model is None else model.spec,
        "checkpoint": None if checkpoint is None else runs.file_sha256(checkpoint),
        "clean": samples.sha256,
        **vars(made),
    }
    with runs.claimed(out, identity, resume=None, leaves=LEAVES):
        detector = made.fitted(samples, network_if_given(model, checkpoint))
        report = evidence.detection(
            detector,
            network="pixels" if checkpoint is None else checkpoint.name,
            provenance=evidence.network_provenance(made.seed, {"clean": samples}, checkpoint),
        )
        written = detector.save(out / "detector.safetensors")
        _, page = evidence.write_report(report, out)
    say(report.verdict)
    say(f"wrote {written}, {page.with_suffix('.json')} and {page}")


def _score(detector: ManifoldDetector, sources: tuple[str, ...]) -> None:
    threshold = detector.calibrated_threshold
    flagged = False
    for name in _names(sources):
        for file, images in data.image_stream(name, detector.fitted.shape[0]):
            for line in _lines(detector, threshold, file, images):
                flagged = flagged or line["flagged"]
                print(json.dumps(line), flush=True)
    if flagged:
        sys.exit(1)


def _names(sources: tuple[str, ...]) -> Iterator[str]:
    """Yield the names, and for stdin the lines of standard input as they come."""
    for source in sources:
        if source != "stdin":
            yield source
            continue
        name = None
        for name in lines_in():
            yield name
        if name is None:
            raise BadInput(
                "standard input without a line",
                expected="names of files",
                fix="check the command that lists them",
            )


def _lines(
    detector: ManifoldDetector, threshold: Threshold, file: str, images: Tensor
) -> Iterator[dict[str, Any]]:
    """Yield a line for each image: its score, whether it is flagged, and the network's answer where
    there is a network and it is not. Raises BadInput, which names the file, as the detector does.
    """
    try:
        scores = detector.score(images)
        flags = threshold.flags(scores).tolist()
        answers = None if detector.model is None else detector.answers(images, scores).tolist()
    except BadInput as error:
        raise error.within(file) from error
    for i, (score, flagged) in enumerate(zip(scores.tolist(), flags, strict=True)):
        answer = None if flagged or answers is None else answers[i]
        line = {"file": file, "index": i, "score": score, "threshold": float(threshold)}
        yield {**line, "flagged": flagged, "answer": answer}


def _evaluate(
    detector: ManifoldDetector,
    sources: tuple[str, ...],
    checkpoint: File,
    out: File,
    evasion: EvasionOptions,
) -> None:
    balls = evasion.balls(detector.fitted.shape)
    weights = evasion.weighing()
    if len(sources) != 1 or detector.model is None:
        raise BadInput(f"{len(sources)} sources of samples", expected="one", fix="pass --data once")
    samples = load_samples(sources[0])
    identity = {
        "command": "detect evaluate",
        "checkpoint": runs.file_sha256(checkpoint),
        "detector": detector.record(),
        "data": samples.sha256,
        **vars(evasion),
    }
    with runs.claimed(out, identity, resume=None):
        evaluations = evidence.evaluations(
            detector,
            detector.model,
            samples,
            balls,
            steps=evasion.attack_steps,
            aware_steps=3 * evasion.attack_steps,
            weights=weights,
        )
        report = evidence.detection(
            detector,
            evaluations,
            network=checkpoint.name,
            provenance=evidence.network_provenance(0, {"data": samples}, checkpoint),
        )
        written, page = evidence.write_report(report, out)
    say(_table(evaluations))
    say(report.verdict)
    say(f"wrote {written} and {page}")


def _table(evaluations: tuple[Evaluation, ...]) -> Table:
    """Return one row for each kind of input at every eps."""
    rows: list[tuple[str, ...]] = []
    for evaluation in evaluations:
        flagged = runs.percent(evaluation.false_positives)
        rows.append((f"{evaluation.eps:g}", "clean", "", flagged, "", ""))
        for row in evaluation.rows:
            weight = "" if row.weight is None else f", weight {row.weight:g}"
            area = f"{row.area:.3f} ({row.area.low:.3f} to {row.area.high:.3f})"
            shares = (runs.percent(v) for v in (row.detected, row.wrong, row.undetected))
            rows.append((f"{evaluation.eps:g}", row.inputs + weight, area, *shares))
    heads = ("eps", "inputs", "AUROC", "flagged", "wrong", "fools both")
    return evidence.tables.terminal_table(heads, rows, texts=2)
