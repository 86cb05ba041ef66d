"""Weights, gradients and the optimizer's state shared out over the ranks of a launch, for networks
that do not fit one device.

Source: `torch.distributed.fsdp.fully_shard` (FSDP2; Zhao et al., PyTorch FSDP, VLDB 2023). Where we
depart: which parts are gathered at a time is found by running the network once, and after the
training the module is the ordinary one that came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass
from isthmus.models.view import copied
from isthmus.runs.devices import kept_draws
from isthmus.runs.notices import notice
from isthmus.runs.processes import ranks
from isthmus.runs.wording import first_line
from isthmus.types import BadInput

PARTS = 8
"""A part that is gathered at a time holds an eighth of the weights at most, where it can."""


@contextmanager
def shared_out(module: nn.Module, images: Tensor, wanted: bool) -> Iterator[nn.Module]:
    """Run a block with what is trained in the module's place, and give the module its weights
    afterward; the module itself where sharing out is not `wanted`, or there is one process.

    A module that is no network has a method `sharded(images)`, as a curve has. Raises BadInput
    where torch cannot share the network out.
    """
    if wanted and ranks().world == 1:
        notice("one process has nothing to share out: torchrun --nproc-per-node N starts several")
    if not wanted or ranks().world == 1:
        yield module
        return
    own = getattr(module, "sharded", None)
    with own(images) if own is not None else _sharded_network(module, images) as trained:
        yield trained


@contextmanager
def _sharded_network(module: nn.Module, images: Tensor) -> Iterator[nn.Module]:
    """Run a block with a network shared out; the given one holds no weights meanwhile, nor after an
    error: gathering them takes all ranks.
    """
    trained = sharded_copy(module, images)
    own = dict(module.named_parameters())
    for p in own.values():
        p.data = p.data.new_empty(0)
    yield trained
    reshard(trained)
    for name, p in trained.named_parameters():
        own[name].data = whole(p.detach())
    for mine, theirs in zip(module.buffers(), trained.buffers(), strict=True):
        mine.copy_(theirs)


def sharded_copy(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of a network, shared out; part by part where it runs on the images so, else in
    one piece. Raises BadInput where torch cannot share it out.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = _mesh(device_of(network))
    parts = _parts(network, images)
    reason: Exception | None = None
    for chosen in [parts, set()] if parts else [set()]:
        trained = copied(network).train()
        try:
            for name, part in reversed(list(trained.named_modules())):
                if name in chosen:
                    fully_shard(part, mesh=mesh)
            fully_shard(trained, mesh=mesh)
            _run(trained, images)
            reshard(trained)
            return _with_one_pass(trained)
        except (AssertionError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            reason = error
    assert reason is not None
    raise BadInput(
        f"a network that FSDP2 does not share out ({first_line(reason)})",
        expected="floating parameters of one type, in modules that are called",
        fix="leave shard (--shard) out: every process then holds the whole",
    ) from reason


def _mesh(device: torch.device) -> Any:
    """Return the processes of the launch, as weights are shared out over them."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh: Any = init_device_mesh(device.type, (ranks().world,))
    # Caches of torch keep the mesh for good. What it holds for compiled code alone is the group of
    # all ranks, whose threads would then be alive when Python is taken down under them.
    getattr(mesh, "_pg_registry", {}).clear()
    return mesh


def _with_one_pass(network: Any) -> nn.Module:
    """Return a network that refuses a second training pass before the gradients of the first; its
    `after_backward` says that they are there.

    Two passes and an attack between them, as TRADES has, gave other gradients than one process.
    """
    begun: list[bool] = []

    def count(part: nn.Module, inputs: Any) -> None:
        if not (part.training and torch.is_grad_enabled()):
            return
        if begun:
            raise BadInput(
                "a loss of several passes (trades) on a network that is shared out",
                expected="one training pass a step, as of cross-entropy or adversarial",
                fix="pass such a loss, or leave shard (--shard) out",
            )
        begun.append(True)

    network.register_forward_pre_hook(count)
    network.after_backward = begun.clear
    trained: nn.Module = network
    return trained


def reshard(network: nn.Module) -> None:
    """Let go of the whole of each weight, of which a forward pass keeps some for the gradients."""
    for part in network.modules():
        let_go: Any = getattr(part, "reshard", None)
        if let_go is not None:
            let_go()


def _run(network: nn.Module, images: Tensor) -> None:
    """Run a network on two images, in eval mode; no draw is used."""
    device = device_of(network)
    with kept_draws(device), eval_mode(network), torch.no_grad():
        forward_pass(network, as_input(images[:2], device, channels_last=False))


def _parts(network: nn.Module, images: Tensor) -> set[str]:
    """Return the names of the parts that are gathered one at a time: the largest modules that hold
    an eighth of the weights at most, are called, and have no parameter that others have too.
    """
    called: set[nn.Module] = set()
    hooks = [
        part.register_forward_hook(lambda part, inputs, out: called.add(part))
        for part in network.modules()
    ]
    try:
        _run(network, images)
    except Exception:  # a user's network may raise anything; the real pass reports it
        return set()
    finally:
        for hook in hooks:
            hook.remove()
    return set(_below(network, "", called, _size(network) / PARTS, _tied(network)))


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _tied(network: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that stand in several places."""
    places = [p for _, p in network.named_parameters(remove_duplicate=False)]
    return {p for p in places if sum(p is other for other in places) > 1}


def _below(
    module: nn.Module, name: str, called: set[nn.Module], most: float, tied: set[nn.Parameter]
) -> Iterator[str]:
    for leaf, part in module.named_children():
        place = f"{name}.{leaf}" if name else leaf
        own = set(part.parameters())
        if own and part in called and not own & tied and _size(part) <= most:
            yield place
        else:
            yield from _below(part, place, called, most, tied)


def whole(value: Any) -> Any:
    """Return a tensor, gathered on every rank where it is shared out; anything else as it is.

    All ranks have to call this together.
    """
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def whole_on_first(state: Any) -> Any:
    """Return a state dict in which tensors that are shared out are whole, on the CPU of the first
    rank; the others have None in their places, and hold one whole tensor at a time.

    All ranks have to call this together.
    """
    if isinstance(state, dict):
        return {name: whole_on_first(part) for name, part in state.items()}
    if isinstance(state, list):
        return [whole_on_first(part) for part in state]
    if not hasattr(state, "full_tensor"):
        return state
    tensor = whole(state)
    return tensor.cpu() if ranks().first else None


def as_shared(value: Any, like: Any) -> Any:
    """Return a tensor shared out as another one is; as it is where that one is not."""
    if not hasattr(like, "full_tensor") or not isinstance(value, Tensor):
        return value
    if value.shape != like.shape:  # a count of steps
        return value
    from torch.distributed.tensor import distribute_tensor

    given = value.to(like.device)
    return distribute_tensor(given, like.device_mesh, like.placements, src_data_rank=None)


def shared_state(state: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return a state dict of whole tensors as one for a module that is shared out."""
    own = module.state_dict()
    return {name: as_shared(value, own.get(name)) for name, value in state.items()}


def shared_optimizer_state(state: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return the state of an optimizer of whole tensors as one for a module that is shared out."""
    trained = [p for p in module.parameters() if p.requires_grad and p.numel()]
    held = {
        i: {name: as_shared(value, trained[i]) for name, value in of_one.items()}
        for i, of_one in state["state"].items()
    }
    return {**state, "state": held}
