"""CLP: prune the channels whose Lipschitz bound stands out in their layer, without any data.

Source: Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022, section
4. A channel of a convolution with BatchNorm behind it is bounded by the largest singular value of
its filter, as a matrix (inputs, pixels), times |scale| / deviation; channels above mean + u
deviations of their layer are pruned (u = 3 on CIFAR-10).

Where we depart from the paper's code: which convolution feeds which BatchNorm is seen in a forward
pass over an image of zeros, not guessed from the order in which layers were registered. In a
pre-activation network the convolution inside a block feeds the next BatchNorm and is examined; the
one that ends a block feeds a sum, whose other summand its filter says nothing about, so the
BatchNorm behind the sum is left alone. The deviation of a BatchNorm includes its epsilon, as its
forward pass does. As the defense is free of data, BatchNorm is not recalibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isthmus.data.dataset import Source, as_data
from isthmus.models.forward import outputs
from isthmus.models.view import copied
from isthmus.types import BadInput

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class CLP:
    """Channel Lipschitz pruning. `u` is the number of deviations above the mean from which a
    channel is pruned.

    No budget: nothing is trained. Of the bonafide samples only the shape is read.
    """

    u: float = 3.0

    gradients: ClassVar[int] = 0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the pruned copy, scale and shift of the pruned channels zero.

        Raises BadInput where no convolution feeds a BatchNorm that has a scale and running
        statistics.
        """
        net = copied(tampered).eval()
        fed = _fed_by_convolution(net, as_data(bonafide).x)
        if not fed:
            raise BadInput(
                "a network in which no convolution feeds a BatchNorm",
                expected="BatchNorm with scale and running statistics behind a convolution",
                fix="use FineTune or FTSAM, which take any network",
            )
        bounds = {
            norm: torch.stack([lipschitz_bounds(conv, norm) for conv in fed[norm]]).amax(0)
            for norm in fed
        }
        with torch.no_grad():
            for norm, bound in bounds.items():
                outlying = bound > bound.mean() + self.u * bound.std()
                norm.weight[outlying] = 0
                norm.bias[outlying] = 0
        return net


@torch.no_grad()
def lipschitz_bounds(conv: nn.Module, norm: _BatchNorm) -> Tensor:
    """Return the bound of each channel, (channels,): largest singular value of the filter times
    |scale| / deviation.
    """
    assert isinstance(conv.weight, Tensor) and norm.running_var is not None
    filters = conv.weight.flatten(2).float()
    gain = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
    bounds: Tensor = torch.linalg.matrix_norm(filters, ord=2) * gain
    return bounds


def _fed_by_convolution(net: nn.Module, x: Tensor) -> dict[_BatchNorm, list[nn.Module]]:
    """Return the BatchNorm layers that take a convolution's output as it is, each with the
    convolutions it takes.
    """
    made: list[tuple[Tensor, nn.Module]] = []
    fed: dict[_BatchNorm, list[nn.Module]] = {}

    def after(conv: nn.Module, _: Any, out: Tensor) -> None:
        made.append((out, conv))

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        sources = [conv for out, conv in made if out is inputs[0]]
        known = fed.setdefault(norm, [])
        known.extend(conv for conv in sources if conv not in known)

    hooks = [part.register_forward_hook(after) for part in net.modules() if isinstance(part, Conv)]
    hooks += [part.register_forward_pre_hook(before) for part in net.modules() if _prunable(part)]
    try:
        outputs(net, torch.zeros_like(x[:2]))
    finally:
        for hook in hooks:
            hook.remove()
    return {norm: convs for norm, convs in fed.items() if convs}


def _prunable(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.affine and part.running_var is not None
