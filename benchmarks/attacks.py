"""PGD-10 against its floor (target 1.10x) and against foolbox, torchattacks and ART where they are
installed.

Floor: ten times a forward pass of the network and the gradient in its input, no gradient of a
weight, nothing else, in the memory layout that is fastest. Every attack takes ten steps of 2/255
from a random start within l-inf 8/255 and returns the last point of all samples, so that all do the
same work. Targets beside the others: faster than each, and 1.3x faster than their median. "Until
fooled" is ours as robust accuracy runs it: fooled samples leave the batch.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import in_turns, ratio
from isthmus import Data
from isthmus.attacks import PGD
from isthmus.data import Linf
from isthmus.metrics import attacked
from isthmus.models import frozen, laid_out, preact_resnet

EPS, STEP, STEPS, BATCH = 8 / 255, 2 / 255, 10, 64
Run = Callable[[Tensor, Tensor], Any]


def _floor(net: nn.Module, x: Tensor, y: Tensor) -> None:
    with frozen(net), laid_out(net, x):
        x = x.contiguous(memory_format=torch.channels_last)
        for _ in range(STEPS):
            point = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(net(point), y, reduction="sum"), point)


def _ours(net: nn.Module, attack: PGD) -> Run:
    return lambda x, y: attacked(net, Data(x, y, 10), attack)


def _foolbox(net: nn.Module) -> Run:
    foolbox = importlib.import_module("foolbox")
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
    return lambda x, y: attack.run(model, x, y, epsilon=EPS)


def _torchattacks(net: nn.Module) -> Run:
    run: Run = importlib.import_module("torchattacks").PGD(net, eps=EPS, alpha=STEP, steps=STEPS)
    return run


def _art(net: nn.Module) -> Run:
    classifiers = importlib.import_module("art.estimators.classification")
    model = classifiers.PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0)
    )
    pgd = importlib.import_module("art.attacks.evasion").ProjectedGradientDescent
    attack = pgd(
        model,
        eps=EPS,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=BATCH,
        verbose=False,
    )
    return lambda x, y: attack.generate(x.numpy(), y.numpy())


PEERS: dict[str, Callable[[nn.Module], Run]] = {
    "foolbox": _foolbox,
    "torchattacks": _torchattacks,
    "ART": _art,
}


def _peers(net: nn.Module) -> dict[str, Run]:
    """The peers that can be imported, each with a network of its own."""
    runs = {}
    for name, make in PEERS.items():
        try:
            runs[name] = make(copy.deepcopy(net))
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return runs


def _seconds(run: Run, x: Tensor, y: Tensor) -> float:
    began = time.perf_counter()
    run(x, y)
    return time.perf_counter() - began


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per attack: seconds, over the floor, and over ours; a last one for the median of
    the peers.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net = preact_resnet(20).eval()
    x = torch.rand(BATCH, 3, 32, 32)
    with torch.no_grad():
        y = net(x).argmax(1)
    runs = {
        "floor": partial(_floor, net),
        "isthmus": _ours(net, PGD(Linf(EPS), STEPS, STEP, returns="last")),
        "isthmus, until fooled": _ours(net, PGD(Linf(EPS), STEPS, STEP)),
        **_peers(net),
    }
    took = in_turns({name: partial(_seconds, run, x, y) for name, run in runs.items()}, rounds)
    known = [took[name] for name in PEERS if name in took]
    if known:
        took["median of the others"] = [
            statistics.median(each) for each in zip(*known, strict=True)
        ]
    return [
        {
            "PGD-10": name,
            "seconds": min(seconds),
            "of the floor": ratio(seconds, took["floor"]),
            "of isthmus": ratio(seconds, took["isthmus"]),
        }
        for name, seconds in took.items()
    ]
