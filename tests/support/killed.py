"""Commands killed at random moments and taken up again; what they write has to be the same."""

import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from support.command_line import MODEL

CHANGING = {"seconds", "time", "command", "provenance", "seconds_per_sample", "peak_memory"}
"""Entries of a record that say when and how long, which no run has in common with another."""

GRID = f"""
[[grid]]
network = "{MODEL}"
attack = ["patch", "none"]
defense = ["none", "CLP"]
seed = 0
[settings]
train = "digits:train#n=200"
clean = "digits:test#n=100"
test = "digits:test#skip=100"
[settings.training]
steps = 60
lr = 0.2
[settings.attacks.patch]
trigger = "Patch(size=2)"
target = 1
"""


@dataclass(frozen=True)
class Command:
    """A command, what it writes, and the option with which it goes on."""

    words: tuple
    out: str
    resume: tuple = ("--resume",)


NETWORK, BOTH = ("--model", MODEL), ("a.safetensors", "b.safetensors")
COMMANDS = {
    "train": Command(
        ("train", *NETWORK, "--data", "digits:train", "--steps", 450, "--lr", 0.1), "t.safetensors"
    ),
    "connect": Command(
        ("connect", *BOTH, *NETWORK, "--clean", "digits:test", "--steps", 250),
        "c.safetensors",
    ),
    "path": Command(
        ("path", "curve.safetensors", *NETWORK, "--clean", "digits:test", "--points", 9),
        "p.json",
        (),
    ),
    "repair": Command(
        ("repair", "a.safetensors", *NETWORK, "--clean", "digits:test#n=300", "--steps", 60), "r"
    ),
    "sweep": Command(("sweep", "grid.toml"), "s", ()),
    "attack": Command(
        ("attack", BOTH[0], *NETWORK, "--data", "digits:test", "--attack", "apgd", "--eps", 0.2),
        "x.npz",
        (),
    ),
}


def prepare(folder):
    """Write what the commands read: two networks, a curve without bends, a sweep."""
    for name, seed in (("a", 0), ("b", 1)):
        words = ("train", *NETWORK, "--data", "digits:train", "--steps", 120, "--lr", 0.2)
        whole(Command((*words, "--seed", seed), f"{name}.safetensors"), folder)
    straight = ("connect", *BOTH, *NETWORK, "--clean", "digits:test")
    whole(Command((*straight, "--bends", 0), "curve.safetensors"), folder)
    (folder / "grid.toml").write_text(GRID)


# A server that has imported what is heavy, and computed nothing: a process that is forked after
# threads have run waits for them forever.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["isthmus.cli.repair", "isthmus.cli.train", "isthmus.evidence"])


def _start(command, folder, out, *, resume):
    """Start a command in a process of its own."""
    words = [*command.words, "--out", out, *(command.resume if resume else ())]
    process = PROCESSES.Process(target=_run, args=([str(word) for word in words], folder, out))
    process.start()
    return process


def _run(words, folder, out):
    from isthmus.cli import main

    os.chdir(folder)
    with (
        open(os.devnull, "w") as nowhere,
        open(f"{out}.errors", "a") as errors,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(errors),
    ):
        sys.exit(main(words))


def whole(command, folder, out=None):
    """Run a command to its end; return how many seconds it took."""
    out = out or command.out
    began = time.monotonic()
    process = _start(command, folder, out, resume=False)
    process.join()
    assert process.exitcode == 0, (folder / f"{out}.errors").read_text()[-2000:]
    return time.monotonic() - began


def killed(command, folder, out, seconds, kills, draws):
    """Run a command that is killed up to `kills` times, each after a random share of what the whole
    takes, and then to its end; return how many kills hit it.
    """
    hits = 0
    for attempt in range(kills):
        process = _start(command, folder, out, resume=attempt > 0)
        process.join(draws.uniform(0, seconds))
        if process.exitcode == 0:
            return hits
        assert process.exitcode is None, (folder / f"{out}.errors").read_text()[-2000:]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        hits += 1
        if (folder / out).is_file():  # written in one piece: nothing is left to be done
            return hits
    process = _start(command, folder, out, resume=True)
    process.join()
    assert process.exitcode == 0, (folder / f"{out}.errors").read_text()[-2000:]
    return hits


def contents(path):
    """Return what a file, or every file of a folder, holds, without what is the run's own time."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        shown = [file for file in files if not _hidden(file.relative_to(path))]
        return {str(file.relative_to(path)): contents(file) for file in shown}
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {
                name: torch.from_numpy(np.atleast_1d(arrays[name]))
                for name in arrays
                if arrays[name].dtype.kind in "uif"
            }
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    return None  # pages are made of the record


def _hidden(path):
    return any(part.startswith(".") for part in path.parts) or path.name == "run.json"


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if key not in CHANGING}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def same(first, second):
    """Return whether two contents are equal, bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return first == second


def check(name, folder, *, kills, seed):
    """Kill a command, let it go on, and assert that it wrote what it writes undisturbed; return how
    many kills hit it.
    """
    command = COMMANDS[name]
    suffix = Path(command.out).suffix
    expected = folder / f"{name}-whole{suffix}"
    clock = folder / f"{name}.seconds"
    if not expected.exists():
        clock.write_text(str(whole(command, folder, expected.name)))
    out = f"{name}-{seed}{suffix}"
    hits = killed(command, folder, out, float(clock.read_text()), kills, random.Random(seed))
    assert same(contents(expected), contents(folder / out)), f"{name}, seed {seed}"
    return hits
