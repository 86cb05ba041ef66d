"""The detector: how far an input is from trusted data, and whether that is too far.

Source: Jha, Jang, Jha, Jalaian, "Detecting Adversarial Examples Using Data Manifolds", MILCOM
2018. docs/detection.md says what was measured, and where it does not work.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.data.splits import without_copies
from isthmus.detection.features import Pass, check_layers, finite, layer_pass, pixels
from isthmus.detection.held import HeldDetector, check_digests, check_whole, metadata_of, taken
from isthmus.detection.index import INDEXES
from isthmus.detection.neighbors import NeighborScore, check_count
from isthmus.detection.probes import Probes
from isthmus.detection.score import Score, malformed
from isthmus.detection.table import scores
from isthmus.detection.thresholds import Threshold, calibrated
from isthmus.models.checkpoint import read_tensors, write_tensors
from isthmus.models.forward import device_of, outputs, pass_size
from isthmus.runs.identity import sha256_of
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput, Params

ABSTAIN = -1
"""The answer to an input that is flagged."""

NO_IMAGES = torch.empty(0, 16, dtype=torch.uint8)
"""The digests of no images."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `ManifoldDetector.fit` learns: the parts of the score, what each is divided by, and
    what the detector is bound to.

    `images` are digests (n, 16) of the reference images; `network` is the hash of the weights,
    "" without a network, and `probes` are what the network makes of some of the images.
    """

    parts: tuple[Score, ...]
    scales: tuple[float, ...]
    shape: tuple[int, ...]
    images: Tensor
    network: str
    probes: Probes | None


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
            if kind not in known:
                raise BadInput(
                    f"{name} {kind!r}", expected=f"a known {name}", fix=suggestion(kind, known)
                )
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
        self._checked = None if model is None else _mark(model)
        self.threshold = None
        self._calibration = NO_IMAGES
        return self

    def score(self, x: Tensor) -> Tensor:
        """Return the score of each image of x (n, c, h, w), bytes or floats in [0, 1], as (n,)
        float64 on the CPU.

        Raises BadInput where the detector is not fitted, images have another shape than the
        reference's or leave [0, 1], features or scores are not finite, or the network is no longer
        the one that it was.
        """
        self.check_images(x)
        self._check_unchanged()
        device = torch.device("cpu") if self.model is None else device_of(self.model)
        with torch.no_grad():
            parts = [self.distances(part.to(device)).cpu() for part in self._passes(x)]
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
        self._check_apart(digests, self.fitted.images, "calibration", "reference")
        self._checked = None
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
        self._check_unchanged()
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

        Raises BadInput where it is another network: its weights are others, or at some of the
        reference images its outputs differ by more than TOLERANCE of their size, as under another
        normalization.
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
        if self.fitted.probes is not None:
            self.fitted.probes.check(model, self.layers)
        self.model = model
        self._checked = _mark(model)
        return self

    def _check_unchanged(self) -> None:
        """Raise BadInput where the network is no longer the one that the detector is bound to.

        Hashes and probes are compared anew only where a tensor or a module shows that something
        was done to it.
        """
        if self.model is not None and self._checked != _mark(self.model):
            self.attach(self.model)

    def save(self, path: Path | str) -> Path:
        """Write the detector as safetensors and return the path; the network is not in it.

        Some of the reference images are, where there is a network: PROBES of them.
        """
        fitted = self.fitted
        tensors = {"reference_images": fitted.images, "calibration_images": self._calibration}
        for i, part in enumerate(fitted.parts):
            tensors |= {f"part{i}.{name}": value for name, value in part.state().items()}
        if fitted.probes is not None:
            tensors |= fitted.probes.state()
        return write_tensors(tensors, Path(path), metadata_of(self.record(), tensors))

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
            detector = cls._restored(tensors, HeldDetector.read(metadata))
            check_whole(metadata, tensors)
            detector._use_index(detector.fitted.parts)
        except BadInput as error:
            raise error.within(str(path)) from error
        return detector if model is None else detector.attach(model)

    @classmethod
    def _restored(cls, tensors: Params, held: HeldDetector) -> Self:
        """Return the detector of a record and its tensors. Raises BadInput where they do not make
        one.
        """
        detector = cls(held.score, held.neighbors, held.layers, held.index)
        images = check_digests(
            taken(tensors, "reference_images"), held.reference_samples, "reference_images"
        )
        if sha256_of(images) != held.reference:
            raise malformed("reference_images other than those of the record")
        if bool(held.network) != ("probe_images" in tensors) or (held.layers and not held.network):
            raise malformed("a detector of a network without its probes, or of none with them")
        probes = Probes.from_state(tensors, held.layers, held.shape) if held.network else None
        parts = detector._parts_in(tensors, held)
        detector._check_widths(parts, held, probes)
        detector._fitted = Fitted(parts, held.scales, held.shape, images, held.network, probes)
        calibration = 0 if held.threshold is None else held.threshold.samples
        detector._calibration = check_digests(
            taken(tensors, "calibration_images"), calibration, "calibration_images"
        )
        if held.threshold is not None:
            detector.threshold = Threshold(**held.threshold.model_dump())
        return detector

    def _parts_in(self, tensors: Params, held: HeldDetector) -> tuple[Score, ...]:
        """Return the scores in the tensors of a file. Raises BadInput where they are not those of
        the record.
        """
        parts = []
        for i in range(len(self._kind.inputs(max(1, len(self.layers))))):
            mark = f"part{i}."
            state = {k.removeprefix(mark): v for k, v in tensors.items() if k.startswith(mark)}
            parts.append(self._kind.from_state(state))
        if len(parts) != len(held.scales):
            raise malformed(f"{len(held.scales)} scales for {len(parts)} scores")
        rows = held.reference_samples
        for part in parts:
            if isinstance(part, NeighborScore) and (
                (part.neighbors, len(part.reference)) != (self.neighbors, rows)
            ):
                raise malformed(f"{part.neighbors} neighbors among {len(part.reference)} rows")
        return tuple(parts)

    def _check_widths(
        self, parts: tuple[Score, ...], held: HeldDetector, probes: Probes | None
    ) -> None:
        """Raise BadInput where scores read other numbers of features than the layers have."""
        widths: tuple[int, ...] = (math.prod(held.shape),)
        if self.layers and probes is not None:
            widths = probes.widths(self.layers)
        for part, group in zip(parts, self._kind.inputs(len(widths)), strict=True):
            if part.widths() != tuple(widths[layer] for layer in group):
                raise malformed(f"scores of {part.widths()} features in layers of {widths}")

    def _passes(self, x: Tensor) -> tuple[Tensor, ...]:
        device = torch.device("cpu") if self.model is None else device_of(self.model)
        return x.split(pass_size(x, device)) if len(x) else ()

    def _pass(self, x: Tensor) -> Pass:
        if not self.layers:
            return Pass((finite(pixels(x), "pixels"),), (), None)
        if self.model is None:
            raise _without_network(self.layers)
        return layer_pass(self.model, x, self.layers)

    @torch.no_grad()
    def _seen(self, x: Tensor) -> Pass:
        """Return the features of all images, and the logits where the network was run, on the
        CPU.
        """
        passes = [self._pass(part).cpu() for part in self._passes(x)]
        features = zip(*(part.features for part in passes), strict=True)
        logits = [part.logits for part in passes if part.logits is not None]
        return Pass(
            tuple(torch.cat(rows) for rows in features),
            passes[0].order,
            torch.cat(logits) if len(logits) == len(passes) else None,
        )

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
    digest, whatever the sign of a zero.
    """
    digests = [
        hashlib.sha256(row.tobytes()).digest()[:16]
        for part in x.split(pass_size(x, torch.device("cpu")))
        for row in (pixels(part.cpu()).float() + 0.0).numpy()
    ]
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, 16)


def network_sha256(model: nn.Module) -> str:
    """Return the hash of a network's parameters and buffers in the order of their names."""
    state = model.state_dict()
    return sha256_of(*(state[name] for name in sorted(state)))


def _mark(model: nn.Module) -> object:
    """Return what changes where a network's tensors are written to or replaced, its modules are
    replaced, or hooks are added; nothing is read.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors],
        [
            (id(part), len(part._forward_hooks), len(part._forward_pre_hooks))
            for part in model.modules()
        ],
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
