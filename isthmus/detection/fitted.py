"""What a detector has learned: its scores, and what they are bound to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from isthmus.detection.features import check_layers
from isthmus.detection.probes import Probes
from isthmus.detection.score import Score
from isthmus.runs.identity import sha256_of
from isthmus.types import BadInput


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

    def check_network(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        """Raise BadInput where this is another network than the one at `fit`: its weights are
        others, a layer is missing, or its outputs at the probes differ.
        """
        network = network_sha256(model)
        if network != self.network:
            raise BadInput(
                f"a network with weights {network[:12]}",
                expected="the one that the detector was fitted with "
                f"({self.network[:12] or 'no network'})",
                fix="fit a detector for this network",
            )
        check_layers(model, layers)
        if self.probes is not None:
            self.probes.check(model, layers)


def network_sha256(model: nn.Module) -> str:
    """Return the hash of a network's parameters and buffers in the order of their names."""
    state = model.state_dict()
    return sha256_of(*(state[name] for name in sorted(state)))


def mark_of(model: nn.Module) -> object:
    """Return what changes where a network's tensors are written to or replaced, its modules are
    replaced, or hooks are added or removed; nothing is read. Torch gives every hook a number of its
    own.

    Where it is what it was, `Fitted.check_network` need not be called again.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors],
        [
            (id(part), tuple(part._forward_hooks), tuple(part._forward_pre_hooks))
            for part in model.modules()
        ],
    )
