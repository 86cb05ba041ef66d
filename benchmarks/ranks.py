"""Two processes under `torchrun` against one, at the same batch in all: each on a core of its own.

Floor: half the time of a step, and an exchange of the gradients, 8 bytes for each parameter of the
bend: 3 MB for PreActResNet-26, 120 MB for VGG16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.timing import ratio

STEPS = 6
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def _seconds(network: str, processes: int) -> float:
    """Return what a curve step takes, by the clock of `fit` in the first process."""
    command = [sys.executable, *LAUNCH, str(processes), "-m", __name__, network]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(out.stdout.splitlines()[-1]))


def measure(networks: list[str], rounds: int) -> list[dict[str, Any]]:
    """Return a row per network."""
    rows = []
    for network in networks:
        took: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for processes, seconds in took.items():
                seconds.append(_seconds(network, processes))
        rows.append(
            {
                "network": network,
                "one process (s/step)": min(took[1]),
                "two (s/step)": min(took[2]),
                "one / two": ratio(took[1], took[2]),
            }
        )
    return rows


def main() -> None:
    """Train a curve as one of the processes, and say in the first how long a step took."""
    from benchmarks.steps import BATCH, NETWORKS, _images
    from isthmus import Bezier, expected_over_t, fit
    from isthmus.runs import joined_ranks
    from isthmus.training import cross_entropy

    build = NETWORKS[sys.argv[1]]
    options: dict[str, Any] = {"lr": 1e-6, "precision": "fp32"}
    with joined_ranks() as here:
        options["batch_size"] = BATCH // here.world  # that of a process
        curve, loss = Bezier(build(), build()), expected_over_t(cross_entropy, 1e-4)
        fit(curve, _images(), loss, steps=2, **options)  # warm
        history = fit(curve, _images(), loss, steps=STEPS, **options)
        if here.first:
            print(json.dumps(history.seconds / STEPS), flush=True)


if __name__ == "__main__":
    main()
