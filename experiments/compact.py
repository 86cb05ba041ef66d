"""A compact network for 32x32 pixels: wide, shallow, and good after a few epochs of two CPU cores.

Its first convolution is never trained: it whitens patches of the training images, so that all that
follows starts from inputs of equal size in every direction (Coates and Ng, 2012; as the start of a
fast network for CIFAR-10: Page, 2019; the plan of three pairs of convolutions: Jordan, 2024). With
the widths below it has 1.97 M parameters and takes 0.12 G multiplications an image.

Where we depart: BatchNorm keeps its scales, the loss and the optimizer are those of every other
network of the project, and the head is an ordinary linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus import Data
from isthmus.models.zoo.layers import normalize

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class Compact(nn.Module):
    """A whitening convolution, then per width: convolve, halve, convolve, each with BatchNorm;
    maximum; one linear.

    `whiten` sets the first convolution; without it the layer holds random orthogonal filters.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 256, 256),
        *,
        classes: int = 10,
        channels: int = 3,
        patch: int = 2,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        act, values = ACTIVATIONS[activation], channels * patch**2
        self.normalize = normalize(channels)
        # every filter with both its signs
        self.stem = nn.Conv2d(channels, 2 * values, patch, bias=False)
        self.stem.weight.requires_grad_(False)
        self.set_filters(nn.init.orthogonal_(torch.empty(values, values)))
        self.act = act()
        layers: list[nn.Module] = []
        inputs = 2 * values
        for width in widths:
            layers += [_conv(inputs, width), nn.MaxPool2d(2), nn.BatchNorm2d(width), act()]
            layers += [_conv(width, width), nn.BatchNorm2d(width), act()]
            inputs = width
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, classes)

    @torch.no_grad()
    def set_filters(self, filters: Tensor) -> None:
        """Take filters (values, values) as the rows of the first convolution, each followed by its
        negative.
        """
        both = torch.cat([filters, -filters]).view_as(self.stem.weight)
        self.stem.weight.copy_(both)

    @torch.no_grad()
    def whiten(self, data: Data, images: int = 5000, least: float = 5e-4) -> Compact:
        """Set the first convolution to whiten the patches of the first images; return the network.

        The filters are the eigenvectors of the patches' covariance, each divided by the root of its
        eigenvalue, to which `least` is added so that noise is not blown up.
        """
        x = self.normalize(data[:images].floats())
        # (patches, values)
        patches = F.unfold(x, self.stem.kernel_size).transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T.cov())
        # eigh leaves the sign open: another machine may choose another
        vectors = vectors * vectors.sum(0).sign()
        self.set_filters((vectors / (values + least).sqrt()).T.to(self.stem.weight))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) for images x (n, channels, h, w) in [0, 1], of 16 pixels a
        side or more.
        """
        h: Tensor = self.blocks(self.act(self.stem(self.normalize(x))))
        out: Tensor = self.linear(h.amax((2, 3)))
        return out


def compact(activation: str = "gelu", classes: int = 10, channels: int = 3) -> Compact:
    """Return the network with random weights.

    >>> sum(p.numel() for p in compact().parameters())
    1972778
    """
    return Compact(classes=classes, channels=channels, activation=activation)
