"""VGG16 for 32x32 images, as the papers on mode connectivity use it.

Source: Simonyan and Zisserman, 2015 (configuration D); the head for small images and the initial
weights are those of Garipov et al., 2018: two linear layers of 512 with dropout in front of the
output, weights of variance 2 / fan-out.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from isthmus.models.zoo.layers import conv_relu, normalize

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(
    classes: int = 10, channels: int = 3, batch_norm: bool = False, dropout: float = 0.5
) -> nn.Sequential:
    """Return VGG16 for images of 32x32 (or larger: the mean over the pixels that are left goes into
    the head).

    >>> sum(p.numel() for p in vgg16().parameters())
    15245130
    """
    layers: list[nn.Module] = []
    inputs = channels
    for stage in _STAGES:
        for width in stage:
            layers.append(conv_relu(inputs, width, batch_norm=batch_norm))
            inputs = width
        layers.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(inputs, 512), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(512, 512), nn.ReLU()),
        nn.Linear(512, classes),
    )
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(OrderedDict(normalize=normalize(channels), features=features, head=head))
