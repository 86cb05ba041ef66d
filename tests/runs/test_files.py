"""Laws of files and folders: whole or not there, and nobody's run is lost."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
from safetensors.torch import save_file
from support.noticed import notices
from support.refusals import refused

from isthmus import BadInput
from isthmus.runs import claimed, file_sha256, read_json, remembering, write_json, write_text
from isthmus.runs import folder as folder_room
from isthmus.runs.files import write_atomically
from isthmus.runs.folder import claim_folder, differing
from isthmus.runs.locks import alone, vacant

WRITERS = {
    "text": lambda path: path.write_text("x" * 300_000),
    "torch": lambda path: torch.save({"w": torch.rand(75_000)}, path),
    "safetensors": lambda path: save_file({"w": torch.rand(75_000)}, path),
}


@pytest.fixture(params=["disk", "limit"])
def too_small(request, tmp_path):
    """A folder in which no file can grow to 300,000 bytes: on a full disk, or by a limit on the
    process.
    """
    if request.param == "disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small disk takes root")
        yield tmp_path
        subprocess.run(["umount", str(tmp_path)], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, hard))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refusal(path, write) -> str:
    """Why the file was not written; the error itself, which may hold the file open, is let go."""
    try:
        write_atomically(path, write)
    except BadInput as error:
        return str(error)
    return "written"


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(too_small, write):
    why = refusal(too_small / "new", write)
    assert "could not be written" in why
    assert "\n" not in why
    assert list(too_small.iterdir()) == []
    write_text(too_small / "kept", "old")
    assert "could not be written" in refusal(too_small / "kept", write)
    assert [path.name for path in too_small.iterdir()] == ["kept"]
    assert (too_small / "kept").read_text() == "old"


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_is_written_whole_with_its_folders_and_nothing_beside_it(tmp_path, write):
    path = write_atomically(tmp_path / "a" / "b" / "file", write)
    assert path == tmp_path / "a" / "b" / "file"
    assert path.stat().st_size >= 300_000
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
    def write(path):
        path.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="could not be written"):
        write_text(tmp_path / "file" / "below", "text")
    with pytest.raises(BadInput, match="not an empty folder"):
        claim_folder(tmp_path / "file", {}, resume=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_records_come_back_and_what_json_cannot_say_is_not_written(tmp_path):
    record = {"a": [1, 2.5, None, True], "ü": {"b": "c"}}
    assert read_json(write_json(tmp_path / "r.json", record)) == record
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    assert not (tmp_path / "nan.json").exists()


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_a_record_that_cannot_be_read_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "r.json").write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match="readable JSON"):
        read_json(tmp_path / "r.json")


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert (
        file_sha256(tmp_path / "f")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


RUN = {"command": "repair", "seed": 0, "bends": [1]}


def folder_holding(path, kind):
    if kind in ("empty", "this run", "another run", "files", "a list", "half a run"):
        path.mkdir()
    contents = {"this run": RUN, "another run": {**RUN, "seed": 1}, "a list": [1]}
    if kind in contents:
        (path / "run.json").write_text(json.dumps(contents[kind]))
    elif kind == "half a run":
        (path / "run.json").write_text('{"seed"')
    elif kind == "files":
        (path / "thesis.tex").write_text("mine")
    return path


@pytest.mark.parametrize(
    ("kind", "resume", "refusal"),
    [
        ("nothing", False, None),
        ("nothing", True, None),
        ("empty", False, None),
        ("empty", True, None),
        ("this run", True, None),
        ("this run", False, "--resume"),
        ("another run", False, "seed: 1 there, 0 now"),
        ("another run", True, "seed: 1 there, 0 now"),
        ("files", False, "not an empty folder"),
        ("files", True, "not an empty folder"),
        ("a list", True, "not one of ours"),
        ("half a run", True, "readable JSON"),
    ],
)
def test_a_folder_is_claimed_or_refused_and_nothing_in_it_is_lost(tmp_path, kind, resume, refusal):
    folder = folder_holding(tmp_path / "out", kind)
    before = {path: path.read_text() for path in folder.iterdir()} if folder.exists() else {}
    if refusal:
        with pytest.raises(BadInput, match=refusal) as caught:
            claim_folder(folder, RUN, resume=resume)
        assert "\n" not in str(caught.value)
        assert {path: path.read_text() for path in folder.iterdir()} == before
    else:
        assert claim_folder(folder, RUN, resume=resume) == folder
        assert read_json(folder / "run.json") == RUN


@pytest.mark.parametrize(
    "error", [BadInput("x", expected="y", fix="z"), RuntimeError("x"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("wrote", [False, True])
def test_a_run_that_fails_before_it_wrote_anything_gives_its_folder_back(error, wrote, tmp_path):
    with pytest.raises(type(error)), claimed(tmp_path / "out", RUN, resume=False) as folder:
        if wrote:
            (folder / "kept").touch()
        raise error
    assert (tmp_path / "out").exists() == wrote


@pytest.mark.parametrize("resume", [None, False, True], ids=["never", "first", "again"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("others", [False, True])
def test_an_interrupted_run_that_starts_over_gives_back_what_it_wrote(
    error, resume, others, tmp_path
):
    """What others put there is never deleted, nor what a failed or a resumable run wrote."""
    folder = tmp_path / "out"
    with pytest.raises(error), claimed(folder, RUN, resume=resume):
        write_text(folder / "deep/one.txt", "1")
        write_json(folder / "two.json", 2)
        if others:
            (folder / "mine").touch()
        raise error
    assert folder.exists() == (resume is not None or others or error is RuntimeError)
    if folder.exists():
        assert (folder / "deep/one.txt").exists() and (folder / "run.json").exists()
    else:
        with claimed(folder, RUN, resume=None):
            pass


REFUSED = BadInput("a full disk", expected="room", fix="free some space")


@pytest.mark.parametrize("resume", [None, False])
def test_a_refused_run_that_starts_over_gives_back_what_it_wrote(resume, tmp_path):
    """As on a disk that is full at its last file; one that goes on keeps what it saved."""
    with pytest.raises(BadInput, match="full disk"), claimed(tmp_path / "out", RUN, resume=resume):
        write_json(tmp_path / "out/report.json", 1)
        raise REFUSED
    assert (tmp_path / "out").exists() == (resume is not None)


PARTS = ("one.safetensors", "decisions.json", ".run.json.lock", ".report.json.77.tmp")


def test_a_killed_run_that_starts_over_is_in_nobodys_way(tmp_path):
    folder = folder_holding(tmp_path / "out", "this run")
    for name in PARTS:
        (folder / name).touch()
    with claimed(folder, RUN, resume=None, leaves=PARTS[:1]):
        assert {each.name for each in folder.iterdir()} == {"run.json", ".run.json.lock"}
        write_json(folder / "report.json", 1)
    refused(lambda: begin(folder, RUN), "holds this run already")
    assert sorted(each.name for each in folder.iterdir()) == ["report.json", "run.json"]


@pytest.mark.parametrize(
    "run, mine, words",
    [
        ({**RUN, "seed": 1}, None, "seed: 1 there, 0 now"),
        ({**RUN, "command": "certify"}, None, "different run"),
        (RUN, "two.safetensors", "holds this run already"),
        (RUN, "one.safetensors.txt", "holds this run already"),
        (RUN, ".mine.1.tmp", "holds this run already"),
        (RUN, "report.json", "holds this run already"),
    ],
)
def test_only_what_the_same_killed_run_left_is_deleted(run, mine, words, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run))
    for name in (*PARTS, *([mine] if mine else [])):
        (folder / name).touch()
    refused(lambda: begin(folder, RUN), words)
    assert {*PARTS, "run.json", *([mine] if mine else [])} - {".run.json.lock"} == {
        each.name for each in folder.iterdir()
    }


def begin(folder, run):
    with claimed(folder, run, resume=None, leaves=PARTS[:1]):
        pass


@pytest.mark.parametrize("there", [(), ("a",), ("a", "a/b")], ids=["none", "one", "all"])
def test_folders_that_were_made_for_nothing_go_where_a_run_fails(there, tmp_path):
    """They stay where they were before."""
    for name in there:
        (tmp_path / name).mkdir()
    with pytest.raises(RuntimeError), claimed(tmp_path / "a/b/c", RUN, resume=False):
        raise RuntimeError
    with pytest.raises(BadInput), alone(tmp_path / "a/b/file", "it"):
        raise REFUSED
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a/b/file", lambda path: 1 / 0)
    assert {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")} == set(there)


def failing(folder, error, files, *progress):
    with remembering(folder, *progress):
        for file in files:
            write_json(folder / file, 1)
        raise error


@pytest.mark.parametrize("error", [BadInput("x", expected="y", fix="z"), OSError("full")])
@pytest.mark.parametrize("files", [(), ("decisions.json",)])
def test_a_refused_call_takes_its_hidden_folder_away(error, files, tmp_path):
    with pytest.raises(type(error)):
        failing(tmp_path / ".run", error, files, tmp_path / "state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", ["there before", "more", "state", "interrupted"])
def test_what_a_run_goes_on_from_is_never_taken_away(kept, tmp_path):
    folder = tmp_path / ".run"
    if kept == "there before":
        write_json(folder / "decisions.json", 0)
    files = ("decisions.json", *(["batch.json"] if kept == "more" else []))
    if kept == "state":
        (tmp_path / "state").touch()
    error = KeyboardInterrupt() if kept == "interrupted" else BadInput("x", expected="y", fix="z")
    with pytest.raises(type(error)):
        failing(folder, error, files, tmp_path / "state")
    assert sorted(file.name for file in folder.iterdir()) == sorted(files)


@pytest.mark.parametrize("there", [False, True])
def test_a_claim_that_cannot_be_written_leaves_what_was_there(there, tmp_path, monkeypatch):
    if there:
        (tmp_path / "out").mkdir()

    def full(path, record):
        raise OSError("No space left on device")

    monkeypatch.setattr(folder_room, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        take(tmp_path / "out", RUN)
    assert [file.name for file in tmp_path.rglob("*")] == (["out"] if there else [])


def take(folder, run):
    with claimed(folder, run, resume=True):
        pass


@pytest.mark.parametrize("held", [True, False], ids=["this run", "a new folder"])
def test_two_runs_never_work_in_one_folder_at_once(held, tmp_path):
    folder = tmp_path / "out"
    if held:
        claim_folder(folder, RUN, resume=False)
    with claimed(folder, RUN, resume=held):
        (folder / "kept").touch()
        before = sorted(folder.iterdir())
        refused(lambda: take(folder, RUN), "on which another process works")
        assert sorted(folder.iterdir()) == before
    take(folder, RUN)
    assert sorted(file.name for file in folder.iterdir()) == ["kept", "run.json"]


HOLDS = """
import sys, time
from isthmus.runs import claimed
with claimed(sys.argv[1], {}, resume=True):
    print("there", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_leaves_a_folder_that_can_be_taken(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        refused(lambda: take(tmp_path / "out", {}), "another process works")
        process.kill()
    (tmp_path / "out/run.json").unlink()  # as if it had been killed before it was written
    assert vacant(tmp_path / "out")
    with claimed(tmp_path / "out", {}, resume=False):
        pass
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["run.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks"), NotImplementedError("flock")])
def test_a_folder_is_taken_where_the_file_system_has_no_locks(error, tmp_path, monkeypatch):
    def lockless(self, **options):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", lockless)
    _, said = notices(lambda: take(tmp_path / "out", RUN))
    assert len(said) == 1 and "no lock for" in said[0] and "no second process" in said[0]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["run.json"]


def test_a_lock_that_stays_does_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    unlink = Path.unlink

    def held(path, missing_ok=False):
        if path.suffix == ".lock":
            raise PermissionError("open files stay on Windows")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "out", RUN, resume=False):
        raise ZeroDivisionError
    assert vacant(tmp_path / "out")


def test_an_option_that_is_younger_than_a_run_has_its_default_there(tmp_path):
    older = {name: value for name, value in RUN.items() if name != "seed"}
    claim_folder(tmp_path / "out", older, resume=False)
    with pytest.raises(BadInput, match="seed: 5 there, 0 now"):
        claim_folder(tmp_path / "out", RUN, resume=True, defaults={"seed": 5})
    claim_folder(tmp_path / "out", RUN, resume=True, defaults={"seed": 0, "bends": [3]})
    assert read_json(tmp_path / "out/run.json") == RUN


def test_a_run_is_recognized_after_its_way_through_json(tmp_path):
    claim_folder(tmp_path / "out", {**RUN, "bends": (1,)}, resume=False)
    claim_folder(tmp_path / "out", {**RUN, "bends": (1,)}, resume=True)


@pytest.mark.parametrize(
    ("held", "now", "words"),
    [
        ({}, {}, None),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, None),
        ({"a": 1}, {"a": 2}, "a: 1 there, 2 now"),
        ({"b": 1, "a": "x"}, {"b": 2}, "a: 'x' there, None now"),
    ],
)
def test_the_first_difference_is_named(held, now, words):
    assert differing(held, now) == words
