"""Random crops with mirrored borders, by the name that the records of trained networks know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isthmus import Augment


@dataclass(frozen=True)
class ReflectedCrops:
    """`Augment` with a mirrored border; its name is part of the identity of finished networks."""

    pad: int = 2
    flip: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (n, c, h, w), each sample moved by its own draw of the global generator."""
        return Augment(self.pad, self.flip, border="reflect")(x)
