"""Run pytest under settings that stand in for other CPUs: instruction sets, precisions, threads.

    python .ci/cpus.py                           the suite under every setting
    python .ci/cpus.py --only avx2,bf16 -m numeric   some settings; the rest goes to pytest

A setting that this machine cannot run is named and left out. Ends with 1 if a run fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

ALL_CORES = str(os.cpu_count() or 1)


@dataclass(frozen=True)
class Setting:
    """Environment variables of one run, and the CPU feature that it needs."""

    environment: Mapping[str, str]
    needs: str | None = None
    workers: bool = field(default=True, kw_only=True)

    def offered(self) -> bool:
        """Return whether this CPU has the feature."""
        return self.needs is None or bool(torch.cpu.get_capabilities().get(self.needs))


SETTINGS = {
    "default": Setting({"ATEN_CPU_CAPABILITY": "default"}),
    "avx2": Setting({"ATEN_CPU_CAPABILITY": "avx2"}, "avx2"),
    "avx512": Setting({"ATEN_CPU_CAPABILITY": "avx512"}, "avx512_f"),
    "onednn-avx2": Setting(  # whose kernels have no LSTM in bf16
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ISTHMUS_PRECISION": "fp32"}, "avx2"
    ),
    "one-thread": Setting({"OMP_NUM_THREADS": "1"}),
    "many-threads": Setting({"OMP_NUM_THREADS": ALL_CORES}, workers=False),
    "fp32": Setting({"ISTHMUS_PRECISION": "fp32"}),
    "bf16": Setting({"ISTHMUS_PRECISION": "bf16"}),  # without the instructions torch emulates them
    "old-cpu": Setting(
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "ISTHMUS_PRECISION": "fp32",
        },
        "avx2",
    ),
}


def tested(name: str, arguments: list[str]) -> bool:
    """Run pytest under a setting and return whether it passes."""
    setting = SETTINGS[name]
    threads = {"OMP_NUM_THREADS": "1"}
    workers = ["-n", "2"] if setting.workers else []
    command = [sys.executable, "-m", "pytest", *workers, *arguments]
    began = time.monotonic()
    print(f"\n{name}: {' '.join(f'{k}={v}' for k, v in setting.environment.items())}", flush=True)
    done = subprocess.run(command, env={**os.environ, **threads, **setting.environment})
    print(f"{name}: exit {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run the settings and print which passed, failed or were left out; return the exit code."""
    names = list(SETTINGS)
    if arguments[:1] == ["--only"]:
        names = arguments[1].split(",")
        arguments = arguments[2:]
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        print(f"unknown settings {', '.join(unknown)}; choose from {', '.join(SETTINGS)}")
        return 2
    arguments = arguments or ["-m", "not slow"]
    outcomes = {}
    for name in names:
        if not SETTINGS[name].offered():
            outcomes[name] = f"left out: this CPU has no {SETTINGS[name].needs}"
        else:
            outcomes[name] = "passed" if tested(name, arguments) else "FAILED"
    print()
    for name, outcome in outcomes.items():
        print(f"{name:14s}{outcome}")
    return int("FAILED" in outcomes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
