"""The names under which transformers saves the weights of its networks.

A network of transformers has one set of names in memory and may have another in files: those that
its first release wrote. Checkpoints hold the latter, so a network that is built here speaks them in
its state dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from isthmus.models.view import copied


def saved_names(network: Any) -> dict[str, str]:
    """Return the name in files of each tensor of a network of transformers, by its name in memory.

    Found by writing a copy in which every tensor holds its own number. Tensors that are not written
    on their own (tied, split or merged ones) keep their names.
    """
    twin = copied(network)
    held = dict(twin.state_dict())
    with torch.no_grad():
        for number, tensor in enumerate(held.values()):
            if tensor.is_floating_point():
                tensor.fill_(number)
    with TemporaryDirectory() as folder, _without_bars():
        twin.save_pretrained(folder)
        files = sorted(Path(folder).glob("*.safetensors"))
        written = {name: t for file in files for name, t in load_file(file).items()}
    names = list(held)
    numbers = {name: tensor.unique().tolist() for name, tensor in written.items()}
    in_files = {names[int(own[0])]: name for name, own in numbers.items() if len(own) == 1}
    return {name: in_files.get(name, name) for name in names if held[name].is_floating_point()}


@contextmanager
def _without_bars() -> Iterator[None]:
    """Run a block in which transformers shows no progress: what it writes there is no user's."""
    from transformers import utils

    bars: Any = utils.logging  # which has no annotations
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@dataclass(eq=False)
class Renaming:
    """Renames the entries of a state dict: a hook of torch, which needs room for its marks."""

    names: Mapping[str, str]

    def __call__(self, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Rename the entries that have a new name, in place; others stay."""
        items = list(state.items())
        state.clear()
        for name, tensor in items:
            own = name.removeprefix(prefix)
            state[prefix + self.names[own] if own in self.names else name] = tensor


def speak_saved_names(network: nn.Module) -> None:
    """Let the state dict of a network of transformers have the names of its files from now on."""
    names = saved_names(network)
    if any(in_file != name for name, in_file in names.items()):
        back = {in_file: name for name, in_file in names.items()}
        network.register_state_dict_post_hook(Renaming(names))
        network.register_load_state_dict_pre_hook(Renaming(back))
