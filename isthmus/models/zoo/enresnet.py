"""Ensembles of residual networks with noise in every block (EnResNet).

Source: Wang et al., ResNets Ensemble via the Feynman-Kac Formalism, NeurIPS 2019. Where we depart:
the standard deviation that scales the noise is that of each sample, not of the batch, so an answer
does not depend on the other images of its batch.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn

from isthmus.models.zoo.layers import check_counts
from isthmus.models.zoo.resnet import PreActResNet, three_stages
from isthmus.types import BadInput


class NoisyResNet(PreActResNet):
    """A pre-activation residual network that adds Gaussian noise after every block, also in eval
    mode: two passes give two answers.

    `noise` is the standard deviation in units of that of each sample's activations; 0 makes it an
    ordinary network. It is set after construction.
    """

    noise: float = 0.1

    def through_blocks(self, h: Tensor) -> Tensor:
        """Return what the blocks make of activations (n, stem, h, w), with noise after each."""
        for block in self.blocks:
            h = self.disturbed(block(h))
        return h

    def disturbed(self, h: Tensor) -> Tensor:
        """Return the activations with noise, drawn from torch's global generator."""
        if not self.noise or h[:1].numel() == 1:  # one number deviates from nothing
            return h
        deviation = h.std((1, 2, 3), keepdim=True)
        return h + self.noise * deviation * torch.randn_like(h)


class EnResNet(nn.Module):
    """Noisy residual networks that are trained as one: the mean of their logits."""

    def __init__(self, members: list[NoisyResNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return torch.stack([member(x) for member in self.members]).mean(0)


def enresnet(
    members: int = 1,
    depth: int = 20,
    classes: int = 10,
    channels: int = 3,
    width: int = 16,
    noise: float = 0.1,
) -> EnResNet:
    """Return an ensemble of noisy residual networks of depth 6n + 2, whose answers are random.

    One gradient of a noisy network overstates robustness; the attacks of isthmus see that it draws
    and average over 20. Raises BadInput for other depths, members, widths, classes or channels that
    are no whole numbers of 1 or more, or noise that is negative or infinite.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> net = enresnet(2, depth=8, width=4).eval()
    >>> torch.equal(net(x), net(x))
    False
    """
    check_counts(members=members)
    if not 0 <= noise < inf:
        raise BadInput(
            f"noise = {noise:g}", expected="a finite number of 0 or more", fix="pass noise=0.1"
        )
    blocks, widths = three_stages(depth, width)
    made = []
    for _ in range(members):
        member = NoisyResNet(blocks, widths, stem=width, classes=classes, channels=channels)
        member.noise = noise
        made.append(member)
    return EnResNet(made)
