"""Networks to train, attack and repair. Normalisation is a network's first layer: every network takes [0, 1]."""

from isthmus.models.resnet import preact_resnet, preact_resnet18, wide_resnet
from isthmus.models.small import mlp, small_cnn
from isthmus.models.vgg import vgg16

__all__ = ["mlp", "preact_resnet", "preact_resnet18", "small_cnn", "vgg16", "wide_resnet"]
