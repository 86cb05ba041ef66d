"""Sweeps: one function, called once for every job of a grid; every job is one result file.

Any number of processes may work on one sweep, on one machine or on several that share a folder. A
job is taken under a lock of the operating system, which a killed process loses at once, so that no
job is done twice and none stays taken. What is finished is not done again.
"""

from __future__ import annotations

import inspect
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from isthmus.runs.files import read_json, write_json, write_text
from isthmus.runs.folder import differing
from isthmus.runs.locks import is_there, lock_of
from isthmus.runs.portable import portable
from isthmus.runs.progress import duration
from isthmus.runs.wording import first_line, unwritten
from isthmus.types import BadInput

Work = Callable[..., Mapping[str, Any]]
"""What a job does: called with its axes and the settings by name, it returns a record of JSON.

A parameter `scratch` gets a folder of the job's own, which is there again after an interruption and
goes once the job is finished; a parameter `job` gets the job's name.
"""


@dataclass(frozen=True)
class Job:
    """One combination of the axes; `name` is that of its result file."""

    name: str
    axes: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Jobs in the order in which they are done, settings that all share, and where results go."""

    jobs: tuple[Job, ...]
    settings: Mapping[str, Any]
    results: Path

    def file(self, job: Job) -> Path:
        """Return where the result of a job is."""
        return self.results / f"{job.name}.json"

    def hidden(self, name: str) -> Path:
        """Return a place for what is there while jobs last, and for what says why one failed."""
        return self.results / ".work" / name


@dataclass
class Outcome:
    """Names of jobs: finished now, finished before, taken by another process, failed (and why);
    and those that were finished before with other settings (and how they differ).
    """

    finished: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)


def shard_of(jobs: Sequence[Job], shard: tuple[int, int]) -> Sequence[Job]:
    """Return every N-th job, from the I-th on, for the shard (I, N) with I from 1 to N.

    Raises BadInput where there is no such shard.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise BadInput(
            f"shard {number}/{count}",
            expected="I/N with I from 1 to N",
            fix="for example --shard 1/4, up to --shard 4/4",
        )
    return jobs[number - 1 :: count]


def run_sweep(
    sweep: Sweep,
    work: Work,
    *,
    shard: tuple[int, int] = (1, 1),
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Do the jobs of a shard that are neither finished nor taken by another process.

    A job that fails is reported, with its traceback in RESULTS/.work/NAME.error.txt, and the others
    go on; the next run tries it again. Torch's generator is seeded before each job, with its axis
    `seed` where it has one, so that no job depends on those before it. Raises BadInput where the
    function does not take the axes and settings.
    """
    jobs = shard_of(sweep.jobs, shard)
    for job in jobs:
        _check_arguments(sweep, work, job)
    outcome = Outcome()
    for i, job in enumerate(jobs):
        _take(sweep, work, job, outcome, partial(_tell_of, tell, f"job {i + 1} of {len(jobs)}"))
    return outcome


def _tell_of(tell: Callable[[str], None], which: str, text: str) -> None:
    tell(f"{which}: {text}")


def _take(
    sweep: Sweep, work: Work, job: Job, outcome: Outcome, tell: Callable[[str], None]
) -> None:
    """Do a job, unless it is finished or taken."""
    if not is_there(sweep.file(job)):
        lock = FileLock(_made(sweep.hidden(f"{job.name}.lock")), thread_local=False)
        if not _acquired(lock):
            outcome.elsewhere.append(job.name)
            return
        try:
            if not is_there(sweep.file(job)):  # another process may have just finished it
                _do(sweep, work, job, outcome, tell)
                return
        finally:
            lock.release()
    outcome.before.append(job.name)
    try:
        difference = _difference(_result(sweep.file(job)), sweep)
    except BadInput as error:
        tell(str(error))
        return
    if difference:
        outcome.outdated[job.name] = difference


def _acquired(lock: BaseFileLock) -> bool:
    """Take a lock, and return whether no other process has it. Raises BadInput where the folder
    cannot be written.
    """
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        raise unwritten(Path(lock.lock_file), error) from error
    return True


def _do(sweep: Sweep, work: Work, job: Job, outcome: Outcome, tell: Callable[[str], None]) -> None:
    """Do a job that nobody else does, and write its result or why there is none."""
    error_file = sweep.hidden(f"{job.name}.error.txt")
    tell(job.name)
    began = time.monotonic()
    try:
        _seed(job)
        record = _checked(work(**_arguments(sweep, work, job)))
        write_json(sweep.file(job), {**record, "sweep": _described(sweep, job)})
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the job's own code may raise anything, or exit
        write_text(error_file, traceback.format_exc())
        outcome.failed[job.name] = first_line(error)
        tell(f"{job.name} failed: {first_line(error)}")
        return
    error_file.unlink(missing_ok=True)
    shutil.rmtree(sweep.hidden(job.name), ignore_errors=True)
    outcome.finished.append(job.name)
    tell(f"{job.name} finished in {duration(time.monotonic() - began)}")


def _checked(record: Any) -> Mapping[str, Any]:
    """Return what a job returned. Raises BadInput where it is no record: values by name."""
    if not isinstance(record, Mapping):
        returned = "nothing" if record is None else f"a {type(record).__name__}"
        raise BadInput(
            f"a job that returned {returned}",
            expected="a record: values by name",
            fix="return a dict",
        )
    _check_names(record)
    return record


def _check_names(value: Any) -> None:
    """Raise BadInput where a name in a record is no text: JSON would hold it as one."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise BadInput(
                    f"a record with the name {name!r}",
                    expected="texts as names",
                    fix="write str(name) in the job",
                )
    if isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            _check_names(part)


def once(file: Path, make: Callable[[], Any], whole: Callable[[Path], bool] = Path.exists) -> Path:
    """Return a file that several jobs need, after `make` has written it where it is not there, or
    not whole.

    One process makes it while the others wait. `make` has to write the file in one piece, over what
    is there.
    """
    if not whole(file):
        lock = lock_of(file)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not whole(file):
                make()
    return file


def results(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Return what every finished job of the folder has written, by name, in alphabetical order.

    That includes jobs which the sweep no longer has. Raises BadInput where a file is no JSON, or no
    record.
    """
    return {file.stem: _result(file) for file in sorted(sweep.results.glob("*.json"))}


def _result(file: Path) -> dict[str, Any]:
    """Return what a job has written. Raises BadInput where the file holds something else, or is a
    link that leads nowhere.
    """
    if not file.exists():
        raise BadInput(
            f"{file}, a link that leads nowhere",
            expected="the record that a job has written",
            fix="delete the link, and its job is done",
        )
    record: dict[str, Any] = read_json(file, fix=_DONE_AGAIN)
    described = record.get("sweep", _NOTHING_SAID) if isinstance(record, dict) else None
    if not isinstance(described, dict) or not all(
        isinstance(described.get(part), dict) for part in _NOTHING_SAID
    ):
        raise BadInput(
            f"{file}, which holds no result of a job",
            expected="the record that a job has written",
            fix=_DONE_AGAIN,
        )
    return record


_DONE_AGAIN = "delete the file, and its job is done again"

_NOTHING_SAID: Mapping[str, Any] = {"axes": {}, "settings": {}}
"""What results stand for that do not say of which axes and settings they are."""


def _seed(job: Job) -> None:
    import torch

    seed = job.axes.get("seed", 0)
    torch.manual_seed(seed if isinstance(seed, int) else 0)


def _made(file: Path) -> Path:
    """Return the file, after making its folder. Raises BadInput where that cannot be made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(file.parent, error) from error
    return file


def _arguments(sweep: Sweep, work: Work, job: Job) -> dict[str, Any]:
    """Return what a job's function is called with."""
    own = _own(sweep, work, job)
    if "scratch" in own:
        own["scratch"].mkdir(parents=True, exist_ok=True)
    return {**sweep.settings, **job.axes, **own}


def _own(sweep: Sweep, work: Work, job: Job) -> dict[str, Any]:
    """Return what a function may ask for beside axes and settings, where it does."""
    own = {"scratch": sweep.hidden(job.name), "job": job.name}
    asked = _signature(work).parameters
    return {name: value for name, value in own.items() if name in asked}


def _signature(work: Work) -> inspect.Signature:
    """Return what a function takes. Raises BadInput where it does not say, as some builtins."""
    try:
        return inspect.signature(work)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"a job whose function does not say what it takes ({first_line(error)})",
            expected="a function of Python",
            fix="wrap it in one",
        ) from error


def _check_arguments(sweep: Sweep, work: Work, job: Job) -> None:
    signature = _signature(work)
    given = {**sweep.settings, **job.axes}
    own = _own(sweep, work, job)
    for name in own.keys() & given.keys():
        raise BadInput(
            f"{name} = {given[name]!r} for a job",
            expected=f"another name: every job gets a {name} of its own",
            fix="rename the axis or setting",
        )
    try:
        signature.bind(**given, **own)
    except TypeError as error:
        name = getattr(work, "__qualname__", repr(work))
        raise BadInput(
            f"a job whose function {name} has {error}",
            expected=f"axes and settings for {name}({', '.join(signature.parameters)})",
            fix="add it to the file, or pass --set NAME=VALUE",
        ) from error
    try:
        json.dumps(_described(sweep, job), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"a job of {given} ({first_line(error)})",
            expected="axes and settings that its result can hold as JSON",
            fix="write them as texts",
        ) from error


def _held(value: Any) -> Any:
    """Return a value as results hold it, without what is a machine's own."""
    if isinstance(value, Mapping):
        return {key: _held(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_held(part) for part in value]
    return portable(str(value)) if isinstance(value, (str, Path)) else value


def _described(sweep: Sweep, job: Job) -> dict[str, Any]:
    return {"axes": _held(job.axes), "settings": _held(sweep.settings)}


def _difference(record: Mapping[str, Any], sweep: Sweep) -> str | None:
    """Return how the settings of a finished job differ from those of now; None if they do not, or
    nobody knows.
    """
    if "sweep" not in record:
        return None
    return differing(record["sweep"]["settings"], _held(sweep.settings))
