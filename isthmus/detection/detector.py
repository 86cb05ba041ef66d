"""The detector: how far an input is from trusted data, and whether that is too far.

Source: Jha, Jang, Jha, Jalaian, "Detecting Adversarial Examples Using Data Manifolds", MILCOM
2018. docs/detection.md says what was measured, and where it does not work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.detection.features import check_layers, layer_features, pixels
from isthmus.detection.index import INDEXES
from isthmus.detection.neighbors import NeighborScore
from isthmus.detection.score import Score
from isthmus.detection.table import scores
from isthmus.detection.thresholds import Threshold, calibrated
from isthmus.models.checkpoint import read_tensors, write_tensors
from isthmus.models.forward import device_of, outputs, pass_size
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput, Params

ABSTAIN = -1
"""The answer to an input that is flagged."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `ManifoldDetector.fit` learns: the parts of the score, what each is divided by, and
    what the detector is bound to.

    `images` are digests (n, 16) of the reference images; `network` is the hash of the weights,
    "" without a network.
    """

    parts: tuple[Score, ...]
    scales: tuple[float, ...]
    shape: tuple[int, ...]
    images: Tensor
    network: str


class ManifoldDetector:
    """Scores inputs by their distance to trusted reference data; larger = farther, for every score.

    `score` is knn, linf, kde, lle, tangent, mahalanobis or inconsistency. `layer` is a module's
    name, or several; None means pixels. Scores of several layers are averaged, each divided by its
    typical value on the reference; inconsistency needs two layers or more. `index` is how the
    nearest reference rows are found: exact, or approximate for a large reference (the extra `ann`),
    whose `recall` is measured. Raises BadInput where the score or the index is unknown, or the
    layers or the index do not suit the score.
    """

    def __init__(
        self,
        score: str = "lle",
        neighbors: int = 20,
        layer: str | Sequence[str] | None = None,
        index: str = "exact",
    ) -> None:
        for name, kind, known in (("score", score, scores()), ("index", index, INDEXES)):
            if kind not in known:
                raise BadInput(
                    f"{name} {kind!r}", expected=f"a known {name}", fix=suggestion(kind, known)
                )
        self.score_name = score
        self.index = index
        self.neighbors = neighbors
        self.layers = (layer,) if isinstance(layer, str) else tuple(layer or ())
        self.threshold: Threshold | None = None
        self.model: nn.Module | None = None
        self._fitted: Fitted | None = None
        self._calibration = torch.empty(0, 16, dtype=torch.uint8)
        if index != "exact" and not issubclass(self._kind, NeighborScore):
            raise BadInput(
                f"an {index} index for the score {score}",
                expected="a score over neighbors: knn, linf, kde, lle or tangent",
                fix="leave the index out",
            )
        if not self._kind.inputs(max(1, len(self.layers))):
            raise BadInput(
                f"{len(self.layers)} layers for the score {score}",
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
        layer does not exist, or there are fewer samples than neighbors.
        """
        data = as_data(reference)
        if model is None and self.layers:
            raise _without_network(self.layers)
        if model is not None:
            check_layers(model, self.layers)
        self.model = model
        features = self._features_of(data.x)
        groups = self._kind.inputs(len(features))
        chosen = [tuple(features[layer] for layer in group) for group in groups]
        parts = tuple(self._kind.fit(rows, data.y, self.neighbors) for rows in chosen)
        self._use_index(parts)
        scales: tuple[float, ...] = (1.0,)
        if len(parts) > 1:
            pairs = zip(parts, chosen, strict=True)
            scales = tuple(part.typical(rows) or 1.0 for part, rows in pairs)
        network = "" if model is None else network_sha256(model)
        shape = tuple(data.x.shape[1:])
        self._fitted = Fitted(parts, scales, shape, image_digests(data.x), network)
        self.threshold = None
        return self

    def score(self, x: Tensor) -> Tensor:
        """Return the score of each image of x (n, c, h, w), bytes or floats in [0, 1], as (n,)
        float64 on the CPU.

        Raises BadInput where the detector is not fitted, or images have another shape than the
        reference's or leave [0, 1].
        """
        self._check(x)
        device = torch.device("cpu") if self.model is None else device_of(self.model)
        with torch.no_grad():
            parts = [self.distances(part.to(device)).cpu() for part in self._passes(x)]
        return torch.cat([torch.empty(0, dtype=torch.float64), *parts])

    def distances(self, x: Tensor) -> Tensor:
        """Return the scores (n,) float64 with their gradient in x, from one pass on x's device.

        The neighbors are those that x has; the gradient is that of its distance to these.
        """
        fitted = self.fitted
        features = self._features(x)
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

        Raises BadInput where samples are among the reference, or cannot resolve the rate.
        """
        data = as_data(clean)
        digests = image_digests(data.x)
        self._check_apart(digests, self.fitted.images, "calibration", "reference")
        self.threshold = calibrated(self.score(data.x), false_positive_rate)
        self._calibration = digests
        return self

    def check_apart(self, data: Source) -> None:
        """Raise BadInput where samples are among the reference or the calibration samples."""
        digests = image_digests(as_data(data).x)
        self._check_apart(digests, self.fitted.images, "evaluation", "reference")
        self._check_apart(digests, self._calibration, "evaluation", "calibration")

    def flags(self, x: Tensor) -> Tensor:
        """Return whether each image of x is farther than the threshold, (n,) bool.

        Raises BadInput as `score` does, and without a threshold.
        """
        return self.score(x) > self.calibrated_threshold

    def answers(self, x: Tensor, scored: Tensor | None = None) -> Tensor:
        """Return the class that the network gives each image, ABSTAIN where it is flagged, (n,).

        `scored` are the scores of x, where they are known. Raises BadInput as `flags` does, and
        where the detector was fitted without a network.
        """
        if self.model is None:
            raise _without_network(("answers",))
        flagged = (self.score(x) if scored is None else scored) > self.calibrated_threshold
        return outputs(self.model, x).argmax(1).masked_fill(flagged, ABSTAIN)

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

        Raises BadInput where it is another network.
        """
        network = network_sha256(model)
        if network != self.fitted.network:
            held = self.fitted.network[:12] or "no network"
            raise BadInput(
                f"a network with weights {network[:12]}",
                expected=f"the one that the detector was fitted with ({held})",
                fix="fit a detector for this network",
            )
        check_layers(model, self.layers)
        self.model = model
        return self

    def save(self, path: Path | str) -> Path:
        """Write the detector as safetensors and return the path; the network is not in it."""
        fitted = self.fitted
        tensors = {"reference_images": fitted.images, "calibration_images": self._calibration}
        for i, part in enumerate(fitted.parts):
            tensors |= {f"part{i}.{name}": value for name, value in part.state().items()}
        return write_tensors(tensors, Path(path), {"detector": json.dumps(self.record())})

    def record(self) -> dict[str, Any]:
        """Return the settings, the threshold and what the detector is bound to as plain JSON."""
        fitted = self.fitted
        return {
            "score": self.score_name,
            "neighbors": self.neighbors,
            "index": self.index,
            "layers": list(self.layers),
            "shape": list(fitted.shape),
            "scales": list(fitted.scales),
            "network": fitted.network,
            "reference": sha256_of(fitted.images),
            "reference samples": len(fitted.images),
            "threshold": None if self.threshold is None else self.threshold.record(),
        }

    @classmethod
    def load(cls, path: Path | str, model: nn.Module | None = None) -> Self:
        """Return the detector of a file, attached to the network it was fitted with where that is
        given.

        Nothing in the file is run. Raises BadInput where it is no detector, or is damaged, and as
        `attach` does.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            detector = cls._restored(tensors, json.loads(metadata["detector"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path}, which is no detector, or is damaged ({type(error).__name__}: {error})",
                expected="a file that ManifoldDetector.save wrote",
                fix="fit and save it again",
            ) from error
        return detector if model is None else detector.attach(model)

    @classmethod
    def _restored(cls, tensors: Params, record: dict[str, Any]) -> Self:
        index = record.get("index", "exact")  # older files do not say
        detector = cls(record["score"], int(record["neighbors"]), record["layers"], index)
        images = tensors["reference_images"]
        if sha256_of(images) != record["reference"]:
            raise ValueError("the reference is another one")
        scales = tuple(map(float, record["scales"]))
        parts = []
        for i in range(len(scales)):
            mark = f"part{i}."
            state = {k.removeprefix(mark): v for k, v in tensors.items() if k.startswith(mark)}
            parts.append(detector._kind.from_state(state))
        shape = tuple(map(int, record["shape"]))
        detector._use_index(tuple(parts))
        detector._fitted = Fitted(tuple(parts), scales, shape, images, str(record["network"]))
        detector._calibration = tensors["calibration_images"]
        held = record["threshold"]
        detector.threshold = held and Threshold(**held)
        return detector

    def _passes(self, x: Tensor) -> tuple[Tensor, ...]:
        device = torch.device("cpu") if self.model is None else device_of(self.model)
        return x.split(pass_size(x, device)) if len(x) else ()

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self.layers:
            return (pixels(x),)
        if self.model is None:
            raise _without_network(self.layers)
        return layer_features(self.model, x, self.layers)

    @torch.no_grad()
    def _features_of(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the features of all images on the CPU."""
        parts = [[rows.cpu() for rows in self._features(part)] for part in self._passes(x)]
        return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

    def _check(self, x: Tensor) -> None:
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

    @staticmethod
    def _check_apart(digests: Tensor, others: Tensor, name: str, other: str) -> None:
        known = {bytes(row) for row in others.numpy()}
        shared = sum(bytes(row) in known for row in digests.numpy())
        if shared:
            raise BadInput(
                f"{shared} of {len(digests)} {name} samples that are among the {other} ones",
                expected="disjoint data",
                fix="split them first: SET#n=500 and SET#skip=500",
            )


def image_digests(x: Tensor) -> Tensor:
    """Return 16 bytes of the SHA-256 of each image as floats, (n, 16) uint8: equal pixels, equal
    digest.
    """
    digests = [
        hashlib.sha256(row.tobytes()).digest()[:16]
        for part in x.split(pass_size(x, torch.device("cpu")))
        for row in pixels(part.cpu()).float().numpy()
    ]
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 16)


def network_sha256(model: nn.Module) -> str:
    """Return the hash of a network's parameters and buffers in the order of their names."""
    state = model.state_dict()
    return sha256_of(*(state[name] for name in sorted(state)))


def _without_network(layers: tuple[str, ...]) -> BadInput:
    return BadInput(
        f"no network for {', '.join(layers)}",
        expected="the network",
        fix="pass it to fit, or to ManifoldDetector.load",
    )
