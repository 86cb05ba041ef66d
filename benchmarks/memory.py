"""Peak memory of curve training against plain training, each in a process of its own.

On the CPU the peak resident size of the process less that of one that only builds the network; on a
GPU the peak that torch allocated. A curve with one bend holds six vectors of D values (two ends,
bend, theta, gradient, momentum) where plain training holds three, so the floor of the difference is
12 D bytes: 183 MB for VGG16.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

WHAT = ("nothing", "plain", "curve")


def _peak_resident() -> float:
    """Peak resident MB of this process. Linux counts the parent's into `ru_maxrss`, but not into
    VmHWM.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak(network: str, what: str) -> float:
    """Train in this process, and return the peak of its memory in MB."""
    import torch

    from benchmarks.steps import BATCH, NETWORKS, _images
    from isthmus import Bezier, expected_over_t, fit
    from isthmus.training import cross_entropy

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
    return _peak_resident()


def measure(networks: list[str]) -> list[dict[str, Any]]:
    """Return a row per network: peak MB of plain and of curve training above a process that trains
    nothing.
    """
    rows = []
    for network in networks:
        code = (
            "import json, sys; from benchmarks.memory import peak; "
            "print(json.dumps(peak(*sys.argv[1:])))"
        )
        peaks = {
            what: json.loads(
                subprocess.check_output([sys.executable, "-c", code, network, what], text=True)
            )
            for what in WHAT
        }
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
