"""What the defenses are tried on: a small convolutional network with BatchNorm, and bonafide data
for it.
"""

import torch
from torch import nn

from isthmus import Data
from isthmus.training import Training

TRAINING = Training(steps=4, lr=0.05, batch_size=16, precision="fp32")


def samples(n: int = 40) -> Data:
    g = torch.Generator().manual_seed(0)
    return Data(torch.rand(n, 1, 6, 6, generator=g), torch.arange(n) % 3, 3)


def victim(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    convs = [
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
    ]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(128, 3)).eval()


class Odd(nn.Module):
    """No convolutions, no BatchNorm, and a parameter that no layer can initialize anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.linear = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.scale * x.flatten(1))
