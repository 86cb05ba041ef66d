"""Many jobs on a cluster: commands as one Slurm array, through submitit (extra `slurm`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isthmus.runs.imports import of_extra
from isthmus.runs.wording import first_line
from isthmus.types import BadInput


def submit_array(
    commands: Sequence[Sequence[str]], folder: Path, parameters: Mapping[str, Any]
) -> list[str]:
    """Submit the commands as one array, logs in `folder`, and return the numbers of its tasks.

    `parameters` are those of submitit's executors (timeout_min, cpus_per_task, slurm_partition,
    ...); `cluster` among them is slurm, the default, or local, which runs the tasks here. Raises
    BadInput where submitit is not installed, there is no Slurm, or a parameter is unknown.
    """
    submitit = of_extra("submitit", "slurm", "an array for Slurm")
    parameters = {"name": "isthmus", **parameters}
    cluster = parameters.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**parameters)
        functions = [submitit.helpers.CommandFunction(list(words)) for words in commands]
        jobs = executor.map_array(_call, functions)
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        raise BadInput(
            f"an array that cannot be submitted ({first_line(error)})",
            expected="a machine with Slurm, and parameters that submitit knows",
            fix="correct [slurm] in the file",
        ) from error
    return [job.job_id for job in jobs]


def _call(function: Any) -> Any:
    return function()
