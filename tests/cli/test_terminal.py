"""What is printed: user text as text, stand-ins for what a terminal lacks, numbers never cut."""

import contextlib
import errno
import io
import os
import subprocess
import sys

import pytest
from rich.table import Table
from support.command_line import MODEL, isthmus

from isthmus.cli import main
from isthmus.cli.terminal import console, fitted
from isthmus.runs.progress import bar, shown


class Gone(io.StringIO):
    """A stream that cannot be written, from its first or only from its last byte on."""

    def __init__(self, error, at):
        super().__init__()
        self.error, self.at = error, at

    def write(self, text):
        if self.at == "write":
            raise self.error
        return super().write(text)

    def flush(self):
        if self.at == "flush":
            raise self.error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("at", ["write", "flush"])
@pytest.mark.parametrize(
    ("error", "status"), [(BrokenPipeError(), 141), (FULL, 2), (OSError(errno.EIO, "broken"), None)]
)
def test_output_that_cannot_be_written_ends_in_one_line_or_none(error, status, at, home):
    out = f"unread-{at}-{status}.safetensors"
    command = ("flip", "a.safetensors", "--model", MODEL, "--flips", "1", "--out", out)
    words = io.StringIO()
    with (
        contextlib.chdir(home),
        contextlib.redirect_stdout(Gone(error, at)),
        contextlib.redirect_stderr(words),
        pytest.raises((SystemExit, OSError)) as end,
    ):
        main(command)
    assert (home / out).exists()
    if status is None:
        assert end.value is error  # nobody knows why: all is shown
        return
    assert end.value.code == status
    lines = words.getvalue().splitlines()
    assert len(lines) == (status == 2) and all("standard output" in line for line in lines)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_process_whose_output_is_lost_says_so_once():
    """Also where the text is small and is written only as the process ends."""
    printing = "from isthmus.cli import app\n"
    printing += "app.application = lambda chosen: lambda *words, **options: print('text')\n"
    code = [sys.executable, "-c", f"{printing}app.main(['flip'])"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(code, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "standard output" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(code, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141 and not done.stderr, done.stderr


HOSTILE = ["[red]1", "o[/p]x", "net[seed=1]", ":smile:", "[link=x]y", "\\[bold]"]


def printed(content, width=80):
    """What a console of this width, which is no terminal, makes of a text or a table."""
    out = console(io.StringIO())
    out.width = width
    out.print(content)
    return out.file.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_user_named_is_printed_as_it_is(text):
    table = Table("Network", text, caption=text, title=text)
    table.add_row(text, text)
    assert printed(text).strip() == text
    assert printed(table).count(text) == 5
    assert printed(fitted(table, 10), width=80).count(text) == 5


@pytest.mark.parametrize("text", HOSTILE)
def test_progress_shows_what_a_user_named_as_it_is(text, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with shown(), bar(text, 2) as advance:
        advance(f"note {text}")
        advance(f"note {text}")
    assert text in stream.getvalue()


def test_files_and_classes_with_brackets_go_through_the_commands(home):
    (home / "o[").mkdir(exist_ok=True)
    flipped = ("--flips", 1, "--out", "o[/p]/net[seed=1].safetensors")
    found = isthmus("flip", "a.safetensors", "--model", MODEL, *flipped, folder=home)
    assert found.returncode == 0, found.stderr
    assert "wrote o[/p]/net[seed=1].safetensors" in found.stdout
    data = ("--model", MODEL, "--data", "digits:test#n=50")
    found = isthmus("evaluate", "o[/p]/net[seed=1].safetensors", *data, folder=home)
    assert "net[seed=1].safetensors" in found.stdout, found.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_gets_stand_ins_for_what_it_lacks(encoding, home):
    arguments = ["evaluate", "a.safetensors", "--model", MODEL, "--data", "digits:test#n=50"]
    process = subprocess.run(
        [sys.executable, "-m", "isthmus", *arguments],
        cwd=home,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert process.returncode == 0, process.stderr
    text = process.stdout.decode(encoding).replace("\u00a0", " ")
    assert " % (" in text
    assert "?" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_and_no_heading_is_cut(width):
    names = [f"measure number {i}" for i in range(8)]
    values = [f"{1.6912345e-12 * 10**i:.6g}" for i in range(8)]
    table = Table("t", *names)
    for t in ("0", "0.25"):
        table.add_row(t, *values)
    lines = printed(fitted(table, width), width=width)
    assert "…" not in lines
    for word in (*names, *values):
        assert word in lines
    for value in values:
        assert lines.count(value) == 2
