"""Whether a network's logits are piecewise linear in its input, read off the autograd graph."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

# Nodes of autograd's graph, without "Backward": what is linear in each of its inputs, or in pieces;
# and what is a product of some of its inputs, of which at most one may depend on the image.
_LINEAR = re.compile(
    "Add|AddRelu|Sub|Rsub|Neg|Sum|Mean|Cumsum|Clone|ToCopy|Alias|View|UnsafeView|ReshapeAlias|"
    "ReshapeCopy|AsStrided|Expand|Repeat|Permute|Transpose|T|Flip|Rot90|Roll|Select|Slice|"
    "Narrow|NarrowCopy|Index|IndexSelect|Gather|Where|MaskedFill|Squeeze|Unsqueeze|Split|"
    "SplitWithSizes|Unbind|Cat|Stack|Unfold|Im2Col|Col2Im|Diagonal|PixelShuffle|PixelUnshuffle|"
    r"ChannelShuffle|ConstantPadNd|(Reflection|Replication)Pad\dD|(Adaptive)?AvgPool\dD|"
    r"Upsample(Nearest|NearestExact|Linear|Bilinear|Trilinear|Bicubic)\dD|Relu|LeakyRelu|"
    "PreluKernel|Threshold|Hardtanh|Clamp|ClampMin|ClampMax|Abs|Max|Min|Amax|Amin|Maximum|"
    r"Minimum|(Adaptive)?MaxPool\dD(WithIndices)?"
)


_FACTORS = {
    **dict.fromkeys(("Mul", "Mm", "Bmm", "Mv", "Dot", "Linear", "MkldnnLinear"), slice(0, 2)),
    **dict.fromkeys(
        ("Convolution", "MkldnnConvolution", "SlowConv2D", "CudnnConvolution"), slice(0, 2)
    ),
    **dict.fromkeys(("Addmm", "Baddbmm", "Addmv"), slice(1, 3)),
}


_BATCHNORM = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"}


def piecewise_linear(outputs: Tensor, x: Tensor) -> bool:
    """Return whether the outputs, just computed from x, are known to be piecewise linear in it.

    Autograd's record of the pass is read, so functions count like modules; weights, and what is
    computed from weights alone, may be anything. What is not known counts as not linear.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> from torch import nn
    >>> x = torch.rand(2, 3, requires_grad=True)
    >>> [piecewise_linear(out, x) for out in (nn.Linear(3, 2)(x).relu(), x * x, F.gelu(x))]
    [True, False, False]
    """
    leaf, depends = get_gradient_edge(x).node, dict[Any, bool]()
    stack: list[Any] = [outputs.grad_fn] if outputs.grad_fn is not None else []
    while stack:
        node = stack[-1]
        children = [child for child, _ in node.next_functions]
        unknown = [child for child in children if child is not None and child not in depends]
        if unknown:
            stack += unknown
            continue
        stack.pop()
        reached = [child is not None and depends[child] for child in children]
        depends[node] = node is leaf or any(reached)
        if node is not leaf and any(reached) and not _is_linear(node, reached):
            return False
    return True


def _is_linear(node: Any, reached: list[bool]) -> bool:
    """Whether one node is piecewise linear in those of its inputs that depend on the image."""
    name = re.sub(r"Backward\d*$", "", node.name())
    if name in _FACTORS:
        return sum(reached[_FACTORS[name]]) <= 1
    if name in _BATCHNORM:
        return not getattr(node, "_saved_training", True) and not any(reached[1:])
    return bool(_LINEAR.fullmatch(name)) or (name == "Div" and not any(reached[1:]))
