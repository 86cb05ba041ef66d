"""Pre-activation residual networks: depth 6n + 2, PreAct-ResNet18, WideResNet.

Source: He et al., Identity Mappings in Deep Residual Networks, 2016; Zagoruyko and Komodakis, 2016
(wide).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.models.zoo.layers import check_counts, normalize
from isthmus.types import BadInput


class PreActBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice, added to the input; the shortcut is projected where the
    shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (n, outputs, h / stride, w / stride)."""
        h = F.relu(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(h)
        h = self.conv1(h)
        out: Tensor = self.conv2(self.dropout(F.relu(self.bn2(h)))) + residual
        return out


class PreActResNet(nn.Module):
    """Stages of pre-activation blocks, each stage after the first halving the image; mean over
    pixels; one linear.

    `blocks` and `widths` say how many blocks of how many channels each stage has; `stem` is the
    first convolution's. Raises BadInput for no classes or channels.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        stem: int,
        classes: int = 10,
        channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_counts(classes=classes, channels=channels)
        self.normalize = normalize(channels)
        self.stem = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        layers, inputs = [], stem
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for i in range(count):
                layers.append(PreActBlock(inputs, width, 2 if stage and i == 0 else 1, dropout))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) for images x (n, channels, h, w) in [0, 1]."""
        h = F.relu(self.bn(self.through_blocks(self.stem(self.normalize(x)))))
        out: Tensor = self.linear(h.mean((2, 3)))
        return out

    def through_blocks(self, h: Tensor) -> Tensor:
        """Return what the blocks make of activations (n, stem, h, w)."""
        out: Tensor = self.blocks(h)
        return out


def three_stages(depth: int, width: int) -> tuple[list[int], tuple[int, int, int]]:
    """Return blocks and widths of the stages of a network of depth 6n + 2 for small images: width,
    2 width, 4 width. Raises BadInput for other depths, and widths that are no numbers of channels.
    """
    check_counts(width=width)
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise BadInput(
            f"depth {depth!r}", expected="6n + 2: 8, 14, 20, 26, ...", fix="pass depth=20"
        )
    return [(depth - 2) // 6] * 3, (width, 2 * width, 4 * width)


def preact_resnet(
    depth: int = 20, classes: int = 10, channels: int = 3, width: int = 16
) -> PreActResNet:
    """Return PreActResNet of depth 6n + 2 with stages of width, 2 width, 4 width. Raises BadInput
    for other depths.

    >>> sum(p.numel() for p in preact_resnet(20).parameters())
    272282
    """
    blocks, widths = three_stages(depth, width)
    return PreActResNet(blocks, widths, stem=width, classes=classes, channels=channels)


def preact_resnet18(classes: int = 10, channels: int = 3) -> PreActResNet:
    """Return PreAct-ResNet18 for small images: four stages of two blocks, 64 to 512 channels."""
    return PreActResNet(
        [2, 2, 2, 2], (64, 128, 256, 512), stem=64, classes=classes, channels=channels
    )


def wide_resnet(
    depth: int = 28, widen: int = 10, classes: int = 10, channels: int = 3, dropout: float = 0.0
) -> PreActResNet:
    """Return WRN-depth-widen; the depth is 6n + 4. Raises BadInput for other depths."""
    if depth < 10 or (depth - 4) % 6:
        raise BadInput(
            f"depth {depth}", expected="6n + 4: 10, 16, 22, 28, 40, ...", fix="pass depth=28"
        )
    widths = (16 * widen, 32 * widen, 64 * widen)
    return PreActResNet(
        [(depth - 4) // 6] * 3, widths, stem=16, classes=classes, channels=channels, dropout=dropout
    )
