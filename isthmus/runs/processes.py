"""The processes of one run under `torchrun`: who is first, and what they share."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from isthmus.runs.identity import sha256_of

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run: its rank, the number of processes, its index on its
    machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks to the user."""
        return self.rank == 0


def ranks() -> Ranks:
    """Return this process's place; (0, 1, 0) outside `torchrun`."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


def share_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every rank the first one's values, in place where they differ anywhere; a no-op for one
    process.

    What is mapped from a file stays so where all ranks have the same.
    """
    if ranks().world == 1:
        return
    shared = list(tensors)
    hashes = gathered([sha256_of(tensor) for tensor in shared])
    for tensor, *known in zip(shared, *hashes, strict=True):
        if len(set(known)) > 1:
            dist.broadcast(tensor.data, 0)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the ranks, in place and in one exchange; a no-op for one
    process.
    """
    if ranks().world > 1:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) / ranks().world
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def gathered(value: T) -> list[T]:
    """Return every rank's value, in order of rank."""
    values: list[T] = [value] * ranks().world
    if ranks().world > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Run a block together with the other processes of a `torchrun` launch; alone outside one.

    A process joins once and leaves when it ends: the ranks of one launch cannot meet a second time.
    Every such block ends for all ranks at once: whichever is the last one, a process that ends
    while another still waits for it can bring that one down.
    """
    joins = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if joins:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        # Its functions have the group of all ranks as a default argument. Imported once there is a
        # group, as an optimizer does, they keep its threads alive until Python is taken down under
        # them, and now and then the process dies of that.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_part)
    yield ranks()
    if ranks().world > 1:  # not where the block raised: another rank may never come
        dist.barrier()


def _part() -> None:
    """Leave the group of all ranks, and end its threads: they run for as long as anything holds it,
    as modules do whose weights were shared out and that are waiting to be collected.
    """
    gc.collect()
    dist.destroy_process_group()
