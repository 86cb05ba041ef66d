"""Trainings that share their weights out, on every rank of a launch: run as a script."""

import os
import sys
from functools import partial
from pathlib import Path

import torch
from support.distributed_worker import leave_threads_to
from support.networks import data, network, pair
from support.noticed import notices

from isthmus import BadInput, Bezier, PolyChain, expected_over_t, fit
from isthmus.attacks import PGD
from isthmus.data import Linf
from isthmus.training import adversarial, cross_entropy, sharpness_aware, trades

ATTACK = PGD(Linf(0.05), steps=2, random_start=False)
OPTIONS = {"steps": 6, "lr": 0.05, "batch_size": 8, "seed": 3, "precision": "fp32", "clip": 0.5}


def still(kind):
    """A network that draws nothing: ranks would draw other numbers than one process."""
    net = network(kind)
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    return net


def curve(kind, bends=2):
    """A curve between two networks, and its loss with weight decay."""
    ends = still(kind), still(kind)
    with torch.no_grad():
        for p in ends[1].parameters():
            p.add_(0.1 * p.abs() if p.requires_grad else 0.0)
    return PolyChain(*ends, bends=bends), expected_over_t(cross_entropy, 0.01)


JOBS = {
    "network": lambda: (still("attention"), cross_entropy, {"recompute": True}),
    "norms": lambda: (network("groupnorm"), cross_entropy, {}),
    "frozen": lambda: (still("frozen"), cross_entropy, {"optimizer": torch.optim.AdamW}),
    "tied": lambda: (still("tied"), cross_entropy, {}),
    "attacked": lambda: (network("layernorm"), adversarial(ATTACK), {}),
    "curve": lambda: (*curve("layernorm"), {}),
    "frozen curve": lambda: (*curve("frozen"), {"recompute": True}),
    "attacked curve": lambda: (
        Bezier(*pair("groupnorm")),
        expected_over_t(adversarial(ATTACK), 0.01),
        {"optimizer": torch.optim.AdamW},
    ),
}


REFUSED = {"sharpness-aware": sharpness_aware(), "trades": trades(ATTACK)}
"""Losses that weights which are shared out cannot serve, by a word of the refusal."""


class Ending:
    """A loss that ends the run at some step."""

    def __init__(self, loss, steps):
        self.loss, self.left = loss, steps

    run_identity = "the loss"

    def __call__(self, model, x, y):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.loss(model, x, y)


def main(folder):
    rank = os.environ["RANK"]
    for name, job in JOBS.items():
        module, loss, more = job()
        train = partial(fit, module, data(), loss, shard=True, **OPTIONS, **more)
        _, said = notices(train)
        result = {"through": module.state_dict(), "said": said}
        saved = {"checkpoint": folder / name, "checkpoint_every": 2, **OPTIONS, **more}
        try:
            fit(job()[0], data(), Ending(loss, 4), shard=True, **saved)
        except KeyboardInterrupt:
            resumed = job()[0]
            fit(resumed, data(), Ending(loss, -1), shard=True, **saved)
            result["resumed"] = resumed.state_dict()
        torch.save(result, folder / f"{name}-{rank}.pt")
    for name, loss in REFUSED.items():
        try:
            fit(still("layernorm"), data(), loss, shard=True, **OPTIONS)
        except BadInput as error:
            (folder / f"{name}-{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    leave_threads_to(Path(sys.argv[1]))
    main(Path(sys.argv[1]))
