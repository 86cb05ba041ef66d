"""SIGTERM is an interruption for the command line, and nothing to a program that imports it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.command_line import MODEL, isthmus

from isthmus.cli.signals import Terminated, terminable


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_gives_the_folder_back_in_one_line(home, monkeypatch):
    monkeypatch.setattr("isthmus.evidence.write_report", terminate)
    network = ("a.safetensors", "--model", MODEL, "--data", "digits:test#n=20")
    command = ("certify", *network, "--eps", 0.01, "--out", "deep/terminated")
    done = isthmus(*command, folder=home)
    assert done.returncode == 143 and done.stderr.count("interrupted") == 1, done.stderr
    assert done.stderr.endswith("starts over\n") and "Traceback" not in done.stderr
    assert not (home / "deep").exists()
    assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is signal.SIG_IGN  # until the end


SLEEPS = """
import time
from isthmus.cli import app
def asleep(*_, **__):
    print("there", flush=True)
    time.sleep(600)
app.application = lambda chosen: asleep
app.main(["train"])
"""


def test_a_terminated_process_says_how_to_go_on_once():
    """Twice at once, as `timeout` does it."""
    command = [sys.executable, "-c", SLEEPS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error.startswith("isthmus: interrupted; the same command with --resume")
    assert error.count("\n") == 1


@pytest.mark.parametrize("handler", [signal.SIG_IGN, terminate])
def test_another_handler_stays(handler):
    signal.signal(signal.SIGTERM, handler)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_other_ranks_end_at_once(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_importing_changes_no_handler():
    code = "import isthmus.cli, signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "True\n", found.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_ends_as_it_would_without_us():
    ready, says = os.pipe()
    with terminable():
        child = os.fork()
        if child == 0:
            os.write(says, b".")  # Python drops a signal that comes before it has forked
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        with pytest.raises(Terminated):
            terminate()
            time.sleep(1)
