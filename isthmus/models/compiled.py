"""A network whose passes torch compiles, for as long as a training lasts.

Source: `torch.compile` (Ansel et al., ASPLOS 2024). A curve's weights are inputs of the compiled
code, so that another t compiles nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from isthmus.models.forward import network_under
from isthmus.runs.notices import notice
from isthmus.runs.wording import first_line

BACKEND = "inductor"
"""What compiles, by its name in `torch.compile`."""


@contextmanager
def compiled(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Run a block in which the network under the module runs compiled, if that is `wanted`.

    Where torch cannot compile it, a notice says why, and it runs as it is.
    """
    if not wanted:
        yield
        return
    network = network_under(module)
    before = network._compiled_call_impl
    network._compiled_call_impl = _Attempt(network)
    try:
        yield
    finally:
        network._compiled_call_impl = before


class _Attempt:
    """The compiled call of a network, in the place where `nn.Module.compile` has it; the plain call
    once compiling has failed.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.call: Any = torch.compile(self.plain, backend=BACKEND)

    def plain(self, *inputs: Any, **named: Any) -> Any:
        """Run the network; a frame of ours, since torch compiles none of its own containers."""
        return self.network._call_impl(*inputs, **named)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        try:
            return self.call(*inputs, **named)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.call = self.plain
            cause = getattr(error, "inner_exception", error)
            notice(f"the network is not compiled, and runs as it is: {first_line(cause)}")
            return self.call(*inputs, **named)
