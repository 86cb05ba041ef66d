"""Peak memory of curve training against plain training, each in a process of its own.

On the CPU the peak of what the process holds apart from mapped files, less that of one that only
builds the network; on a GPU the peak that torch allocated. A curve with one bend holds five vectors
of D values (bend, theta, its gradient, the bend's, momentum) where plain training holds three, and
its two ends, in a mapped file where they are large and on a CPU. So the floor of the difference is
8 D bytes: 122 MB for VGG16.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

WHAT = ("nothing", "plain", "curve")


_STATUS = Path("/proc/self/status")


class Watch:
    """The peak of what this process holds apart from files, in MB, looked at every millisecond.

    Where the system does not tell, the peak of its resident size.
    """

    def __init__(self) -> None:
        self.most = 0.0
        if _STATUS.exists():
            Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.most = max(self.most, _held())
            time.sleep(0.001)

    def peak(self) -> float:
        """Return the peak so far."""
        if _STATUS.exists():
            return max(self.most, _held())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _held() -> float:
    held = re.search(r"RssAnon:\s*(\d+)", _STATUS.read_text())
    return int(held[1]) / 2**10 if held else 0.0


def peak(network: str, what: str) -> float:
    """Train in this process, and return the peak of its memory in MB."""
    import torch

    from benchmarks.steps import BATCH, NETWORKS, _images
    from isthmus import Bezier, expected_over_t, fit
    from isthmus.training import cross_entropy

    watch = Watch()
    build = NETWORKS[network]
    if what == "plain":
        fit(build(), _images(), steps=3, lr=1e-6, batch_size=BATCH)
    elif what == "curve":
        fit(
            Bezier(build(), build()),
            _images(),
            expected_over_t(cross_entropy, 1e-4),
            steps=3,
            lr=1e-6,
        )
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return watch.peak()


def in_own_process(module: str, *arguments: str | int) -> float:
    """Return what the module's `peak` returns in a process of its own."""
    code = f"import json, sys; from {module} import peak; print(peak(*json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    return float(subprocess.check_output(command, text=True))


def measure(networks: list[str]) -> list[dict[str, Any]]:
    """Return a row per network: peak MB of plain and of curve training above a process that trains
    nothing.
    """
    rows = []
    for network in networks:
        peaks = {what: in_own_process(__name__, network, what) for what in WHAT}
        plain, curve = peaks["plain"] - peaks["nothing"], peaks["curve"] - peaks["nothing"]
        rows.append(
            {
                "network": network,
                "plain (MB)": plain,
                "curve (MB)": curve,
                "curve / plain": curve / plain,
            }
        )
    return rows
