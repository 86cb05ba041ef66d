"""Networks that train in seconds: a convolutional one for images of any size, and a multilayer
perceptron.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from isthmus.models.zoo.layers import check_counts, conv_relu, normalize
from isthmus.types import BadInput


def small_cnn(classes: int = 10, channels: int = 3, width: int = 32) -> nn.Sequential:
    """Return four 3x3 convolutions with BatchNorm (width, width, 2 width, 2 width channels) and one
    linear layer.

    The image is halved after the second convolution; the mean over pixels makes it fit images of
    any size from 2x2, from the 8x8 of scikit-learn's digits to the 32x32 of CIFAR-10. Raises
    BadInput for counts that are no whole numbers of 1 or more.

    >>> sum(p.numel() for p in small_cnn(channels=1).parameters())
    65834
    """
    check_counts(classes=classes, channels=channels, width=width)
    features = nn.Sequential(
        conv_relu(channels, width),
        conv_relu(width, width),
        nn.MaxPool2d(2),
        conv_relu(width, 2 * width),
        conv_relu(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    head = nn.Linear(2 * width, classes)
    return nn.Sequential(OrderedDict(normalize=normalize(channels), features=features, head=head))


def mlp(
    classes: int = 10, channels: int = 3, size: int = 32, hidden: Sequence[int] = (256, 256)
) -> nn.Sequential:
    """Return a perceptron with hidden ReLU layers of the given widths, for square images of `size`
    pixels a side.

    Raises BadInput where a width or the size is below one.

    >>> sum(p.numel() for p in mlp(channels=1, size=8, hidden=(100,)).parameters())
    7510
    """
    if min(size, *hidden, 1) < 1:
        raise BadInput(
            f"size {size}, hidden {tuple(hidden)}",
            expected="all above zero",
            fix="pass size=32, hidden=(256, 256)",
        )
    widths = [channels * size * size, *hidden]
    layers = [
        layer for ins, outs in pairwise(widths) for layer in (nn.Linear(ins, outs), nn.ReLU())
    ]
    return nn.Sequential(
        OrderedDict(
            normalize=normalize(channels),
            flatten=nn.Flatten(),
            features=nn.Sequential(*layers),
            head=nn.Linear(widths[-1], classes),
        )
    )
