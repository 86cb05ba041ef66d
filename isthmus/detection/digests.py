"""Which images a detector has seen, as digests: they tell equal images, and give none away."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from isthmus.detection.features import pixels
from isthmus.models.forward import pass_size
from isthmus.types import BadInput

BYTES = 16
"""The size of a digest."""

NO_IMAGES = torch.empty(0, BYTES, dtype=torch.uint8)
"""The digests of no images."""


def image_digests(x: Tensor) -> Tensor:
    """Return 16 bytes of the SHA-256 of each image as floats, (n, 16) uint8: equal pixels, equal
    digest, whatever the sign of a zero.
    """
    digests = [
        hashlib.sha256(row.tobytes()).digest()[:BYTES]
        for part in x.split(pass_size(x, torch.device("cpu")))
        for row in (pixels(part.cpu()).float() + 0.0).numpy()
    ]
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, BYTES)


def check_apart(digests: Tensor, others: Tensor, name: str, other: str) -> None:
    """Raise BadInput where some of the digests (n, 16) of `name` samples are among the others."""
    known = {bytes(row) for row in others.numpy()}
    shared = sum(bytes(row) in known for row in digests.numpy())
    if shared:
        raise BadInput(
            f"{shared} of {len(digests)} {name} samples that are among the {other} ones",
            expected="disjoint data",
            fix="split them first: SET#n=500 and SET#skip=500",
        )
