"""Networks to train, attack and repair. Normalisation is a network's first layer: every network takes [0, 1]."""

from isthmus.models.resnet import preact_resnet, preact_resnet18, wide_resnet

__all__ = ["preact_resnet", "preact_resnet18", "wide_resnet"]
