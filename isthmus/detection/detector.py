"""The detector: how far an input is from trusted data, and whether that is too far.

Source: Jha, Jang, Jha, Jalaian, "Detecting Adversarial Examples Using Data Manifolds", MILCOM
2018. docs/detection.md says what was measured, and where it does not work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.data.splits import without_copies
from isthmus.detection.digests import NO_IMAGES, check_apart, image_digests
from isthmus.detection.features import Pass, check_layers, finite, layer_pass, layer_passes, pixels
from isthmus.detection.fitted import Fitted, mark_of, network_sha256
from isthmus.detection.held import (
    HeldDetector,
    calibrated_in,
    check_whole,
    fitted_in,
    metadata_of,
    tensors_of,
)
from isthmus.detection.index import INDEXES
from isthmus.detection.neighbors import NeighborScore, check_count
from isthmus.detection.probes import Probes
from isthmus.detection.score import Score
from isthmus.detection.table import scores
from isthmus.detection.thresholds import Threshold, calibrated
from isthmus.models.checkpoint import read_tensors, write_tensors
from isthmus.models.forward import device_of, outputs, pass_size
from isthmus.models.memory import in_passes
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import check_known
from isthmus.types import BadInput

ABSTAIN = -1
"""The answer to an input that is flagged."""


class ManifoldDetector:
    """Scores inputs by their distance to trusted reference data; larger = farther, for every score.

    `score` is knn, linf, kde, lle, tangent, mahalanobis or inconsistency. `layer` is a module's
    name, or several; None means pixels. Scores of several layers are averaged, each divided by its
    typical value on the reference; inconsistency needs two layers or more. `index` is how the
    nearest reference rows are found: exact, or approximate for a large reference (the extra `ann`),
    whose `recall` is measured. Raises BadInput where the score or the index is unknown, the
    number of neighbors is none, a layer is named twice, or the layers or the index do not suit the
    score.
    """

    def __init__(
        self,
        score: str = "lle",
        neighbors: int = 20,
        layer: str | Sequence[str] | None = None,
        index: str = "exact",
    ) -> None:
        for name, kind, known in (("score", score, scores()), ("index", index, INDEXES)):
            check_known(name, kind, known)
        self.score_name = score
        self.index = index
        self.neighbors = check_count(neighbors)
        self.layers = (layer,) if isinstance(layer, str) else tuple(layer or ())
        self.threshold: Threshold | None = None
        self.model: nn.Module | None = None
        self._fitted: Fitted | None = None
        self._calibration = NO_IMAGES
        self._checked: object = None
        twice = [name for i, name in enumerate(self.layers) if name in self.layers[:i]]
        if twice:
            raise BadInput(
                f"layer {twice[0]!r} twice", expected="different layers", fix="name it once"
            )
        if index != "exact" and not issubclass(self._kind, NeighborScore):
            raise BadInput(
                f"an {index} index for the score {score}",
                expected="a score over neighbors: knn, linf, kde, lle or tangent",
                fix="leave the index out",
            )
        if not self._kind.inputs(max(1, len(self.layers))):
            count = f"{len(self.layers)} layer{'' if len(self.layers) == 1 else 's'}"
            raise BadInput(
                f"{count} for the score {score}",
                expected="two or more, in the order in which they run",
                fix="name them: layer=('block1', 'block2')",
            )

    @property
    def _kind(self) -> type[Score]:
        return scores()[self.score_name]

    @property
    def fitted(self) -> Fitted:
        """What was learned. Raises BadInput before `fit`."""
        if self._fitted is None:
            raise BadInput(
                "a detector without a reference", expected="a fitted one", fix="call fit first"
            )
        return self._fitted

    def fit(self, reference: Source, model: nn.Module | None = None) -> Self:
        """Learn what trusted data look like, and return self; a threshold has to be set anew.

        `reference` is whatever `as_data` takes. `model` is needed for layers; a detector that was
        given one is bound to it, and the network has to stay as it is. Raises BadInput where a
        layer does not exist or returns numbers that are not finite, there are fewer samples than
        neighbors, or a score that compares layers with the next ones gets them in another order
        than that in which they run.
        """
        data = as_data(reference)
        if model is None and self.layers:
            raise _without_network(self.layers)
        if model is not None:
            check_layers(model, self.layers)
        self.model = model
        seen = self._seen(data.x)
        groups = self._kind.inputs(len(seen.features))
        if any(len(group) > 1 for group in groups):
            _check_order(self.layers, seen.order)
        chosen = [tuple(seen.features[layer] for layer in group) for group in groups]
        parts = tuple(self._kind.fit(rows, data.y, self.neighbors) for rows in chosen)
        for part in parts:
            part.check()
        self._use_index(parts)
        scales: tuple[float, ...] = (1.0,)
        if len(parts) > 1:
            pairs = zip(parts, chosen, strict=True)
            scales = tuple(part.typical(rows) or 1.0 for part, rows in pairs)
        network, probes = "", None
        if model is not None:
            network = network_sha256(model)
            probes = Probes.of(data.x, model, self.layers, seen if self.layers else None)
        shape = tuple(data.x.shape[1:])
        self._fitted = Fitted(parts, scales, shape, image_digests(data.x), network, probes)
        self._checked = None if model is None else mark_of(model)
        self.threshold = None
        self._calibration = NO_IMAGES
        return self

    def score(self, x: Tensor) -> Tensor:
        """Return the score of each image of x (n, c, h, w), bytes or floats in [0, 1], as (n,)
        float64 on the CPU.

        Passes are halved where memory runs out. Raises BadInput where the detector is not fitted,
        images have another shape than the reference's or leave [0, 1], features or scores are not
        finite, or the network is no longer the one that it was.
        """
        self.check_images(x)
        self._check_unchanged()
        device = torch.device("cpu") if self.model is None else device_of(self.model)

        def scored(rows: slice) -> Tensor:
            return self.distances(x[rows].to(device)).cpu()

        worker = self if self.model is None else self.model
        with torch.no_grad():
            parts = in_passes(worker, scored, len(x), pass_size(x, device))
        scores = torch.cat([torch.empty(0, dtype=torch.float64), *parts])
        return finite(scores[:, None], f"scores {self.score_name}").squeeze(1)

    def distances(self, x: Tensor) -> Tensor:
        """Return the scores (n,) float64 with their gradient in x, from one pass on x's device.

        The neighbors are those that x has; the gradient is that of its distance to these.
        """
        fitted = self.fitted
        features = self._pass(x).features
        groups = self._kind.inputs(len(features))
        total = torch.zeros(len(x), dtype=torch.float64, device=features[0].device)
        for part, scale, group in zip(fitted.parts, fitted.scales, groups, strict=True):
            total = total + part(*(features[layer] for layer in group)) / scale
        return total / len(fitted.parts)

    def _use_index(self, parts: tuple[Score, ...]) -> None:
        if self.index != "exact":
            for part in parts:
                assert isinstance(part, NeighborScore)
                part.search_by(self.index)

    @property
    def recall(self) -> float | None:
        """The share of the nearest rows that the index finds, for the first 500 reference rows and
        the worst of the layers; None for an exact index, which finds them all.

        Raises BadInput before `fit`.
        """
        if self.index == "exact":
            return None
        parts = self.fitted.parts
        return min(part.recall() for part in parts if isinstance(part, NeighborScore))

    def calibrate(self, clean: Source, false_positive_rate: float = 0.05) -> Self:
        """Set the threshold that clean inputs exceed at the given rate, with the interval that the
        samples allow, and return self.

        Equal images count once. Raises BadInput where samples are among the reference, or cannot
        resolve the rate, and as `score` does.
        """
        data = without_copies(as_data(clean), "calibration")
        digests = image_digests(data.x)
        check_apart(digests, self.fitted.images, "calibration", "reference")
        self._checked = None
        self.threshold = calibrated(self.score(data.x), false_positive_rate)
        self._calibration = digests
        return self

    def check_apart(self, data: Source) -> None:
        """Raise BadInput where samples are among the reference or the calibration samples."""
        digests = image_digests(as_data(data).x)
        check_apart(digests, self.fitted.images, "evaluation", "reference")
        check_apart(digests, self._calibration, "evaluation", "calibration")

    def flags(self, x: Tensor) -> Tensor:
        """Return whether each image of x is farther than the threshold, (n,) bool.

        Raises BadInput as `score` does, and without a threshold.
        """
        return self.calibrated_threshold.flags(self.score(x))

    def answers(self, x: Tensor, scored: Tensor | None = None) -> Tensor:
        """Return the class that the network gives each image, ABSTAIN where it is flagged, (n,).

        `scored` are the scores of x, where they are known. Raises BadInput as `flags` does, and
        where the detector was fitted without a network.
        """
        network = self._network
        self._check_unchanged()
        flagged = self.calibrated_threshold.flags(self.score(x) if scored is None else scored)
        return outputs(network, x).argmax(1).masked_fill(flagged, ABSTAIN)

    @property
    def calibrated_threshold(self) -> Threshold:
        """The threshold. Raises BadInput before `calibrate`."""
        if self.threshold is None:
            raise BadInput(
                "a detector without a threshold",
                expected="a calibrated one",
                fix="call calibrate with clean data that are not in the reference",
            )
        return self.threshold

    def attach(self, model: nn.Module) -> Self:
        """Give a loaded detector the network it was fitted with, and return self.

        Raises BadInput where it is another network: its weights are others, or at some of the
        reference images its outputs differ by more than TOLERANCE of their size, as under another
        normalization.
        """
        self.fitted.check_network(model, self.layers)
        self.model = model
        self._checked = mark_of(model)
        return self

    def _check_unchanged(self) -> None:
        """Raise BadInput where the network is no longer the one that the detector is bound to.

        Hashes and probes are compared anew only where a tensor or a module shows that something
        was done to it.
        """
        if self.model is not None and self._checked != mark_of(self.model):
            self.attach(self.model)

    def save(self, path: Path | str) -> Path:
        """Write the detector as safetensors and return the path; the network is not in it.

        Some of the reference images are, where there is a network: PROBES of them.
        """
        tensors = tensors_of(self.fitted, self._calibration)
        return write_tensors(tensors, Path(path), metadata_of(self.record(), tensors))

    def record(self) -> dict[str, Any]:
        """Return the settings, the threshold and what the detector is bound to as plain JSON."""
        return self.held.record()

    @property
    def held(self) -> HeldDetector:
        """The record of the detector's file. Raises BadInput before `fit`."""
        fitted, threshold = self.fitted, self.threshold
        settings = {
            "score": self.score_name,
            "neighbors": self.neighbors,
            "index": self.index,
            "layers": self.layers,
            "shape": fitted.shape,
            "scales": fitted.scales,
            "network": fitted.network,
            "reference": sha256_of(fitted.images),
            "reference samples": len(fitted.images),
            "threshold": None if threshold is None else threshold.record(),
        }
        return HeldDetector.model_validate(settings)

    @classmethod
    def load(cls, path: Path | str, model: nn.Module | None = None) -> Self:
        """Return the detector of a file, attached to the network it was fitted with where that is
        given.

        Nothing in the file is run. Raises BadInput where it is no detector, or is damaged, and as
        `attach` does.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            held = HeldDetector.read(metadata)
            detector = cls(held.score, held.neighbors, held.layers, held.index)
            detector._fitted = fitted_in(tensors, held)
            detector.threshold, detector._calibration = calibrated_in(tensors, held)
            check_whole(metadata, tensors)
            detector._use_index(detector.fitted.parts)
        except BadInput as error:
            raise error.within(str(path)) from error
        return detector if model is None else detector.attach(model)

    @torch.no_grad()
    def _seen(self, x: Tensor) -> Pass:
        """Return the features of all images, and the logits where the network was run, on the
        CPU.
        """
        if not self.layers:
            return self._pass(x).cpu()
        return layer_passes(self._network, x, self.layers)

    def _pass(self, x: Tensor) -> Pass:
        if not self.layers:
            return Pass((finite(pixels(x), "pixels"),), (), None)
        return layer_pass(self._network, x, self.layers)

    @property
    def _network(self) -> nn.Module:
        """The network. Raises BadInput where there is none."""
        if self.model is None:
            raise _without_network(self.layers or ("answers",))
        return self.model

    def check_images(self, x: Tensor) -> None:
        """Raise BadInput where x is not a batch of images like those of the reference."""
        if tuple(x.shape[1:]) != self.fitted.shape or x.ndim != 4:
            raise BadInput(
                f"images of shape {tuple(x.shape)}",
                expected=f"(n, {', '.join(map(str, self.fitted.shape))}), as the reference",
                fix="convert the images",
            )
        if x.dtype == torch.uint8 or not len(x):
            return
        low, high = (float(end) for end in x.aminmax())
        if not (low >= 0 and high <= 1 and x.is_floating_point()):
            raise BadInput(
                f"inputs from {low:.4g} to {high:.4g} of type {x.dtype}",
                expected="values in [0, 1], or bytes",
                fix="divide by 255; put normalization into the network as its first layer",
            )


def _check_order(layers: tuple[str, ...], order: tuple[str, ...]) -> None:
    """Raise BadInput where layers are named in another order than that in which they run."""
    if layers != order:
        raise BadInput(
            f"layers {', '.join(layers)}",
            expected="the order in which they run",
            fix=f"pass layer={order!r}",
        )


def _without_network(layers: tuple[str, ...]) -> BadInput:
    return BadInput(
        f"no network for {', '.join(layers)}",
        expected="the network",
        fix="pass it to fit, or to ManifoldDetector.load",
    )
