"""Sweeps: every job is done once, on any process and after any interruption."""

import json
import math
import sys
import time
from asyncio import CancelledError
from collections import Counter
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from support.refusals import refused

from isthmus.runs import (
    Job,
    Sweep,
    once,
    read_sweep,
    read_value,
    results,
    run_sweep,
    submit_array,
)


def sweep_of(folder, count=6, **settings):
    jobs = tuple(Job(f"job{i}", {"i": i, "seed": i % 2}) for i in range(count))
    return Sweep(jobs, settings, folder / "results")


def square(i, seed, power=2):
    return {"value": i**power, "draw": float(torch.rand(1))}


def test_a_job_is_called_with_axes_and_settings_and_is_never_done_again(tmp_path):
    sweep = sweep_of(tmp_path, power=3)
    first = run_sweep(sweep, square)
    assert first.finished == [job.name for job in sweep.jobs]
    assert [results(sweep)[f"job{i}"]["value"] for i in range(6)] == [i**3 for i in range(6)]
    written = {file: file.stat().st_mtime_ns for file in sweep.results.glob("*.json")}
    again = run_sweep(sweep, square)
    assert not again.finished and again.before == first.finished
    assert written == {file: file.stat().st_mtime_ns for file in sweep.results.glob("*.json")}


def test_a_result_that_is_a_link_to_nowhere_is_not_replaced(tmp_path):
    sweep = sweep_of(tmp_path, count=1)
    sweep.results.mkdir()
    link = sweep.file(sweep.jobs[0])
    link.symlink_to("nothing")
    said = []
    assert not run_sweep(sweep, square, tell=said.append).finished and link.is_symlink()
    words = f"got {link}, a link that leads nowhere", "delete the link"
    assert len(said) == 1 and all(word in said[0] for word in words)
    refused(lambda: results(sweep), *words)
    link.unlink()
    assert run_sweep(sweep, square).finished == ["job0"]


def test_a_result_that_is_no_json_is_told_with_the_way_out(tmp_path):
    sweep = sweep_of(tmp_path, count=1)
    run_sweep(sweep, square)
    file = sweep.file(sweep.jobs[0])
    file.write_text("{")
    said = []
    run_sweep(sweep, square, tell=said.append)
    assert str(file) in said[0] and "readable JSON file; delete the file" in said[0]


def test_a_function_that_does_not_say_what_it_takes_is_refused(tmp_path):
    refused(lambda: run_sweep(sweep_of(tmp_path), dict), "does not say what it takes", "wrap it")


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_shards_are_disjoint_and_do_everything(count, tmp_path):
    sweep = sweep_of(tmp_path)
    outcomes = [run_sweep(sweep, square, shard=(i + 1, count)) for i in range(count)]
    assert sorted(name for outcome in outcomes for name in outcome.finished) == [
        job.name for job in sweep.jobs
    ]


def test_a_job_does_not_depend_on_those_before_it(tmp_path):
    run_sweep(sweep_of(tmp_path / "all"), square)
    run_sweep(sweep_of(tmp_path / "last"), square, shard=(6, 6))
    last, alone = (sweep_of(tmp_path / name).results / "job5.json" for name in ("all", "last"))
    assert last.read_text() == alone.read_text()


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit, CancelledError])
def test_a_failed_job_is_reported_and_tried_again(error, tmp_path):
    sweep = sweep_of(tmp_path)

    def third_fails(i, seed):
        if i == 2 and not (tmp_path / "mended").exists():
            raise error("no luck")
        return {"value": i}

    outcome = run_sweep(sweep, third_fails)
    assert outcome.failed == {"job2": "no luck"} and len(outcome.finished) == 5
    assert "third_fails" in sweep.hidden("job2.error.txt").read_text()
    (tmp_path / "mended").touch()
    assert run_sweep(sweep, third_fails).finished == ["job2"]
    assert not sweep.hidden("job2.error.txt").exists()


def test_a_record_that_is_no_json_is_a_failure_and_leaves_no_file(tmp_path):
    sweep = sweep_of(tmp_path, 1)
    assert run_sweep(sweep, lambda i, seed: {"value": float("nan")}).failed
    assert not results(sweep)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "job that returned nothing; expected a record"),
        ([1], "job that returned a list; expected a record"),
        ({1: 2}, "the name 1; expected texts"),
        ({"a": [{"b": {None: 2}}]}, "the name None; expected texts"),
    ],
)
def test_what_is_no_record_by_name_is_a_failure_that_says_so(returned, words, tmp_path):
    sweep = sweep_of(tmp_path, 1)
    assert words in run_sweep(sweep, lambda i, seed: returned).failed["job0"]
    assert not results(sweep)


@pytest.mark.parametrize(
    "content",
    [
        [1],
        3,
        {"sweep": None},
        {"sweep": "x"},
        {"sweep": {"axes": 3, "settings": {}}},
        {"sweep": {"axes": {}}},
        {"sweep": {"axes": {}, "settings": 3}},
    ],
)
def test_a_file_that_is_no_result_is_told_and_done_again_once_it_is_gone(content, tmp_path):
    sweep = sweep_of(tmp_path, 2)
    run_sweep(sweep, square)
    file = sweep.results / "job1.json"
    file.write_text(json.dumps(content))
    assert run_sweep(sweep, square).before == ["job0", "job1"]
    refused(lambda: results(sweep), "job1.json", "no result of a job", "delete the file")
    file.unlink()
    assert run_sweep(sweep, square).finished == ["job1"]
    file.write_text('{"value": 3}')  # what says nothing of its axes is one
    assert results(sweep)["job1"] == {"value": 3}


def test_a_folder_that_cannot_be_made_is_refused_before_the_first_job(tmp_path):
    (tmp_path / "results").write_text("a file")
    refused(lambda: run_sweep(sweep_of(tmp_path), square), "results", "could not be written")


@pytest.mark.parametrize(("value", "words"), [(date(1979, 5, 27), "date"), (math.inf, "inf")])
def test_axes_that_no_result_can_hold_are_refused_before_the_first_job(value, words, tmp_path):
    jobs = (Job("a", {"i": 1, "seed": 0}), Job("b", {"i": value, "seed": 0}))
    refused(lambda: run_sweep(Sweep(jobs, {}, tmp_path / "results"), square), words, "JSON")
    refused(lambda: run_sweep(sweep_of(tmp_path, power=value), square), words, "JSON")
    assert not (tmp_path / "results").exists()


def test_a_setting_of_the_name_of_what_each_job_has_of_its_own_is_refused(tmp_path):
    def work(i, seed, scratch):
        return {}

    refused(lambda: run_sweep(sweep_of(tmp_path, scratch=3), work), "scratch = 3", "rename")
    taken = run_sweep(sweep_of(tmp_path, 1, scratch=3), lambda i, seed, **rest: {"value": rest})
    assert taken.finished == ["job0"]


def test_an_interrupt_ends_the_sweep(tmp_path):
    def interrupted(i, seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep_of(tmp_path), interrupted)


def test_results_of_other_settings_are_told(tmp_path):
    run_sweep(sweep_of(tmp_path, power=2), square)
    outcome = run_sweep(sweep_of(tmp_path, power=3), square)
    assert outcome.outdated["job0"] == "power: 2 there, 3 now"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    paths = [f"{tmp_path}/results", f"{moved}/results"]
    Path(paths[1]).mkdir()
    for path in paths:
        told = run_sweep(sweep_of(tmp_path / "b", data=path), lambda i, seed, data: {"value": i})
    assert not told.outdated
    assert str(tmp_path) not in (tmp_path / "b/results/job0.json").read_text()


def test_scratch_outlasts_a_failure_and_goes_with_success(tmp_path):
    sweep = sweep_of(tmp_path, 1)

    def in_two_goes(i, seed, scratch, job):
        if not (scratch / "half").exists():
            (scratch / "half").write_text(job)
            raise RuntimeError("cut off")
        return {"value": (scratch / "half").read_text()}

    assert run_sweep(sweep, in_two_goes).failed
    assert run_sweep(sweep, in_two_goes).finished == ["job0"]
    assert results(sweep)["job0"]["value"] == "job0"
    assert not sweep.hidden("job0").exists()


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda i: {}, ["unexpected keyword argument 'seed'", "--set"]),
        (lambda i, seed, data: {}, ["missing a required argument: 'data'", "--set"]),
    ],
)
def test_a_function_that_does_not_take_the_settings_is_refused_at_once(work, words, tmp_path):
    refused(lambda: run_sweep(sweep_of(tmp_path), work), *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_shards_that_do_not_exist_are_refused(shard, tmp_path):
    refused(lambda: run_sweep(sweep_of(tmp_path), square, shard=shard), "I/N")


def start(folder):
    """Start a process that does twelve jobs and writes down what it starts and finishes."""
    jobs = tuple(Job(f"job{i:02d}", {"i": i}) for i in range(12))

    def say(file, word):
        with (folder / file).open("a") as log:  # one short write, which the system does not divide
            log.write(f"{word}\n")

    def work(i, job):
        say("started", job)
        time.sleep(0.05)
        say("finished", job)
        return {"i": i}

    sweep = Sweep(jobs, {}, folder / "results")
    process = get_context("fork").Process(target=run_sweep, args=(sweep, work))
    process.start()
    return process


def test_processes_never_do_a_job_twice_and_a_kill_leaves_none_taken(tmp_path):
    processes = [start(tmp_path) for _ in range(3)]
    started = tmp_path / "started"
    while not (started.exists() and len(started.read_text().split()) >= 3):
        time.sleep(0.001)
    processes[0].kill()
    for process in processes:
        process.join()
    start(tmp_path).join()  # takes what the killed one had
    done = results(Sweep((), {}, tmp_path / "results"))
    assert sorted(done) == [f"job{i:02d}" for i in range(12)]
    finished = Counter((tmp_path / "finished").read_text().split())
    assert len(finished) == 12 and sum(finished.values()) <= 13  # killed before its result at most
    assert len(started.read_text().split()) <= 13


def test_what_several_jobs_need_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "a").write_text("x")

    assert once(tmp_path / "a", make) == once(tmp_path / "a", make) == tmp_path / "a"
    assert made == [1]


# ---- the file


FILE = """
job = "worker:square"
name = "{method}-seed{seed}"

[[grid]]
method = ["a", "b"]
seed = [0, 1]

[[grid]]
method = "c"
seed = 5

[settings]
power = 2
"""


def test_a_file_describes_the_sum_of_its_grids_in_order(tmp_path):
    (tmp_path / "s.toml").write_text(FILE)
    described = read_sweep(tmp_path / "s.toml")
    names = [job.name for job in described.sweep.jobs]
    assert names == ["a-seed0", "a-seed1", "b-seed0", "b-seed1", "c-seed5"]
    assert described.sweep.results == Path("results/s")
    only = described.only({"method": "b,c", "seed": "1,5"})
    assert [job.name for job in only.sweep.jobs] == ["b-seed1", "c-seed5"]
    changed = described.changed({"power": 3, "more": True, "a.b": 1, "a.c": 2}, tmp_path)
    assert changed.sweep.settings == {"power": 3, "more": True, "a": {"b": 1, "c": 2}}
    assert changed.sweep.results == tmp_path
    refused(lambda: described.only({"methods": "a"}), "methods", "did you mean method?")
    refused(lambda: described.only({"seed": "7"}), "seed = '7'", "choose one of")


def test_a_value_with_commas_is_named_as_it_is(tmp_path):
    text = (
        'job = "jobs:run"\nresults = "r"\n[[grid]]\nway = ["plain", "plain, long"]\nseed = [0, 1]\n'
    )
    (tmp_path / "own.toml").write_text(text)
    (tmp_path / "jobs.py").write_text("def run(way, seed):\n    return {}\n")
    only = read_sweep(tmp_path / "own.toml").only({"way": "plain, long", "seed": "0"})
    assert [job.axes["way"] for job in only.sweep.jobs] == ["plain, long"]


def test_names_are_of_the_axes_that_differ_and_may_come_from_a_function(tmp_path):
    (tmp_path / "names_of_jobs.py").write_text("def name(seed, net): return f'{net}_{seed + 1}'\n")
    grid = '[[grid]]\nseed = [0, 1]\nnet = "a.b:C,depth=8"\n'
    (tmp_path / "s.toml").write_text(grid)
    assert [job.name for job in read_sweep(tmp_path / "s.toml").sweep.jobs] == ["seed0", "seed1"]
    (tmp_path / "s.toml").write_text('name = "names_of_jobs:name"\n' + grid.replace("a.b:C,", ""))
    names = [job.name for job in read_sweep(tmp_path / "s.toml").sweep.jobs]
    assert names == ["depth=8_1", "depth=8_2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid = [", ["s.toml", "TOML"]),
        ("job = 'a:b'", ["without jobs", "[[grid]]"]),
        ("grid = 3", ["without jobs"]),
        ("grid = [3]", ["without jobs"]),
        ("job = 3\n[[grid]]\nseed = 0", ["job = 3", "a text"]),
        ("settings = 3\n[[grid]]\nseed = 0", ["settings = 3", "a table"]),
        (
            "epochs = 3\n[[grid]]\nseed = 0",
            ["'epochs'", "table; what all jobs share belongs into [settings]"],
        ),
        ("[[grid]]\nseed = 0\n[plot]\nlime = 'a'", ["'lime'", "lines"]),
        ("[[grid]]\nseed = []", ["seed = [] in", "one value or more"]),
        ("name = '{seed.sub}'\n[[grid]]\nseed = [0, 1]", ["{seed.sub}", "pattern of axes"]),
        ("name = '{seed[0]}'\n[[grid]]\nseed = [0, 1]", ["{seed[0]}", "pattern of axes"]),
        ("name = 'json:loads'\n[[grid]]\nseed = [0, 1]", ["json:loads", "TypeError", "axes"]),
        ("[[grid]]\nseed = 0\n[table]\nrows = 3", ["rows = 3", "list of axes", "rows = ['"]),
        ("[[grid]]\nseed = 0\n[table]\nrows = 'seed'", ["rows = 'seed'", "list of axes"]),
        ("[[grid]]\nseed = 0\n[table]\nrows = [0]", ["rows = [0]", "list of axes"]),
        ("[[grid]]\nseed = 0\n[table]\ncolumns = ['v']", ["columns = ['v']", "titles"]),
        ("[[grid]]\nseed = 0\n[table]\ncolumns = {a = 3}", ["{'a': 3}", "titles"]),
        ("[[grid]]\nseed = 0\n[plot]\nx = 3\ny = 'v'", ["x = 3", "an axis"]),
        ("[[grid]]\nseed = 0\n[plot]\nx = 'seed'\ny = ['v']", ["y = ['v']", "a value"]),
        ("[[grid]]\nseed = 0\n[plot]\nx = 'seed'", ["[plot] without y", "x and y"]),
        ("[[grid]]\nseed = 0\n[table]\nrows = ['sed']", ["axis 'sed'", "did you mean seed?"]),
        ("[[grid]]\nseed = 0\n[plot]\nx = 'sed'\ny = 'v'", ["axis 'sed'", "seed"]),
        (
            "[[grid]]\nseed = 0\n[plot]\nx = 'seed'\ny = 'v'\nlines = 'net'",
            ["axis 'net'", "choose one of seed"],
        ),
        ("name = 'all'\n[[grid]]\nseed = [0, 1]", ["function 'all'"]),
        ("name = '{net}'\n[[grid]]\nnet = 1\nseed = [0, 1]", ["2 jobs of 1 names"]),
        ("name = '{sed}'\n[[grid]]\nseed = [0, 1]", ["{sed}", "pattern of axes"]),
        ("name = 'x\\u0000{seed}'\n[[grid]]\nseed = 0".replace("'", '"'), ["x\\x000", "file name"]),
        (f"name = '{'x' * 300}{{seed}}'\n[[grid]]\nseed = 0", ["xxx0'", "at most 220 bytes"]),
        ("name = '../{seed}'\n[[grid]]\nseed = [0, 1]", ["../0", "file name"]),
        ("name = 'no.such:name'\n[[grid]]\nseed = [0, 1]", ["unknown module"]),
        ("name = 'json:nothing'\n[[grid]]\nseed = [0, 1]", ["json:nothing", "no function"]),
    ],
)
def test_bad_files_are_refused_in_one_line(text, words, tmp_path):
    (tmp_path / "s.toml").write_text(text)
    refused(lambda: read_sweep(tmp_path / "s.toml"), *words)


def test_a_file_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "s.toml").write_text("a = " + "[" * 5000)
    refused(lambda: read_sweep(tmp_path / "s.toml"), "s.toml", "TOML")
    assert read_value("[" * 5000) == "[" * 5000
    assert read_value("9" * 5000) == "9" * 5000


def test_a_missing_file_is_refused(tmp_path):
    refused(lambda: read_sweep(tmp_path / "s.toml"), "s.toml", "TOML")


@pytest.mark.parametrize("value", [3, 0.5, True, [1, 2], "a/b", "x y"])
def test_settings_on_the_command_line_read_as_in_the_file(value):
    assert read_value(value if isinstance(value, str) else json.dumps(value)) == value


def test_an_array_has_one_task_for_each_command(tmp_path):
    pytest.importorskip("submitit")
    code = "import sys; open(sys.argv[1], 'w')"
    files = [tmp_path / name for name in "ab"]
    commands = [[sys.executable, "-c", code, str(file)] for file in files]
    numbers = submit_array(commands, tmp_path / "logs", {"cluster": "local", "timeout_min": 1})
    assert len(set(numbers)) == 2
    while not all(list((tmp_path / "logs").glob(f"{number}*result.pkl")) for number in numbers):
        time.sleep(0.05)
    assert all(file.exists() for file in files)
    wrong = {"cluster": "local", "no_such": 1}
    refused(lambda: submit_array(commands, tmp_path / "logs", wrong), "no_such", "[slurm]")
