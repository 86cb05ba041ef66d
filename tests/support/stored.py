"""Small networks to write and read back, and what it means that two are the same."""

import torch
from torch import nn


class Tied(nn.Module):
    """Two layers of one weight, a counter, a truth value, and a mask with infinities."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.register_buffer("seen", torch.tensor(7))
        self.register_buffer("chosen", torch.tensor([True, False]))
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))

    def forward(self, x):
        return self.decode(self.encode(x))


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def perceptron(classes=2):
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, classes))


class Wrapped(nn.Module):
    """A network under the names `model` and `module`, which its own keys carry."""

    def __init__(self):
        super().__init__()
        self.model, self.module = perceptron(), perceptron()


def same(a, b):
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (a, b))
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )
