"""`isthmus sweep`: a grid of jobs, one result file each."""

from __future__ import annotations

import sys
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from isthmus import evidence, runs
from isthmus.cli.options import InputFile, Whole
from isthmus.cli.output import say
from isthmus.cli.sweep_job import trained_and_defended
from isthmus.runs.wording import whole_number
from isthmus.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isthmus.runs import Outcome, SweepFile


def sweep_command(
    file: InputFile,
    *,
    shard: str = "1/1",
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    set_: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=True)] = (),
    out: File | None = None,
    gather: bool = False,
    slurm: Whole = 0,
) -> None:
    """Do the jobs of a sweep that are not done yet, and gather them in a table and a plot.

    A TOML file says what is varied and which function does a job (docs/sweeps.md); without one, a
    job trains a network under an attack, defends it and measures both. Every finished job is a file
    in OUT, written in one piece, and never done again; several processes may work on one sweep, and
    none takes a job that another has. A job that was cut off is taken up by the next run. Writes
    OUT/table.md and, where the file has a [plot], OUT/plot.svg. The exit status is 1 where a job
    failed.

    :param file: The TOML file.
    :param shard: Do only every N-th job, I/N with I from 1 to N.
    :param only: Do only jobs with one of these values, as method=rewiring,magnitude seed=0.
    :param set_: Settings in place of the file's, as data=DIR epochs=2.
    :param out: Where the results go, in place of the file's `results`.
    :param gather: Do nothing but gather what is finished.
    :param slurm: Submit the sweep as a Slurm array of this many tasks, with the parameters in
        [slurm] of the file, in place of running it here.
    """
    settings = {name: runs.read_value(value) for name, value in map(_pair, set_)}
    whole = runs.read_sweep(file).changed(settings, out)
    chosen = whole.only(dict(map(_pair, only)))
    if slurm:
        words = ["sweep", str(file), *_again("--set", set_), *_again("--only", only)]
        words += [] if out is None else ["--out", str(out)]
        _submit(chosen, words, slurm)
        return
    outcome = runs.Outcome()
    if not gather:
        work = chosen.function(chosen.job) if chosen.job else trained_and_defended
        outcome = runs.run_sweep(chosen.sweep, work, shard=_shard(shard), tell=_tell)
        _say_outcome(outcome)
    _gather(whole)
    if outcome.failed:
        raise SystemExit(1)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(repr(text), expected="NAME=VALUE", fix="for example seed=0")
    return name, value


def _again(option: str, values: Sequence[str]) -> list[str]:
    return [option, *values] if values else []


def _shard(text: str) -> tuple[int, int]:
    number, count = (whole_number(part) for part in text.partition("/")[::2])
    if number is None or count is None:
        raise BadInput(f"shard {text!r}", expected="I/N", fix="for example --shard 1/4")
    return number, count


def _tell(line: str) -> None:
    """Write a line of the log."""
    print(f"isthmus: {line}", file=sys.stderr, flush=True)


def _submit(described: SweepFile, words: Sequence[str], tasks: int) -> None:
    """Submit one command for each shard, and say where to look."""
    logs = described.sweep.hidden("slurm")
    shards = ([*words, "--shard", f"{i}/{tasks}"] for i in range(1, tasks + 1))
    commands = [[sys.executable, "-m", "isthmus", *shard] for shard in shards]
    numbers = runs.submit_array(commands, logs, described.slurm)
    say(f"submitted {len(described.sweep.jobs)} jobs in {tasks} tasks: {', '.join(numbers)}")
    say(f"logs go to {logs}; the same command without --slurm and with --gather shows what is done")


def _say_outcome(outcome: Outcome) -> None:
    counts = {
        "finished": outcome.finished,
        "there before": outcome.before,
        "with another process": outcome.elsewhere,
        "failed": outcome.failed,
    }
    say(", ".join(f"{len(names)} {what}" for what, names in counts.items()))
    for name, reason in outcome.failed.items():
        say(f"{name} failed: {reason} (the traceback is in .work/{name}.error.txt)")
    for name, difference in list(outcome.outdated.items())[:3]:
        say(f"{name} was made with other settings ({difference}); delete its file to do it again")
    if len(outcome.outdated) > 3:
        say(f"and {len(outcome.outdated) - 3} more were made with other settings")


def _gather(described: SweepFile) -> None:
    """Write and print the table, and write the plot where the file describes one."""
    sweep = described.sweep
    records = runs.results(sweep)
    axes = {job.name: job.axes for job in sweep.jobs}
    finished = [
        evidence.Finished(record.get("sweep", {}).get("axes") or axes[name], record)
        for name, record in records.items()
        if "sweep" in record or name in axes
    ]
    if described.page:
        text = str(described.function(described.page)(list(records.values())))
    else:
        text = evidence.sweep_table(finished, **described.table)
    say(text)
    say(f"wrote {runs.write_text(sweep.results / 'table.md', str(text))}")
    if described.plot and finished:
        drawing = evidence.figures.swept(finished, **described.plot)
        svg = evidence.figures.to_svg(drawing, "sweep")
        say(f"wrote {runs.write_text(sweep.results / 'plot.svg', svg)}")
