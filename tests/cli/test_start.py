"""A start in a blink: what a person types first is answered before anything heavy is imported.

Asserted by names of modules and not by a clock.
"""

import json
import re
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import resources
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
from support.command_line import isthmus

from isthmus.cli.app import COMMANDS, application
from isthmus.cli.checks import finite, whole
from isthmus.cli.words import _trigger_kinds

HEAVY = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "jinja2", "safetensors"}
HEAVY |= {"pyarrow", "PIL", "huggingface_hub"}
MODEL = ("--model", "isthmus.models:small_cnn")


def started(*arguments, folder):
    """Run the command line in a new process; return its status, its output, and which of the heavy
    packages it imported.
    """
    code = (
        "import json, sys\n"
        "from isthmus.cli import main\n"
        "status = 0\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code or 0\n"
        "print()\n"
        "print(json.dumps([status, sorted(name for name in sys.modules if '.' not in name)]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder
    )
    assert process.returncode == 0, process.stderr
    status, modules = json.loads(process.stdout.splitlines()[-1])
    return status, process.stdout + process.stderr, HEAVY & set(modules)


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_the_help_of_every_command_imports_nothing_heavy(command, tmp_path):
    status, text, heavy = started(command, "--help", folder=tmp_path)
    assert status == 0
    assert f"isthmus {command}" in text
    assert not heavy
    own, said = options_in(text)
    assert said <= own | {"--errors-out"}  # of `isthmus inject`, which is named with it
    if command in ("train", "prune", "quantize"):
        assert "curve" not in text


def options_in(text):
    """The options that a help lists, and those that its descriptions name."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    heads = [re.match(r"│ (?:\*  |   |     )?(?:[A-Z-]+ )?(--.*?)(?:  |│)", line) for line in lines]
    own = " ".join(head[1] for head in heads if head)
    return tuple(set(re.findall(r"--[a-z][a-z-]*", part)) for part in (own, " ".join(lines)))


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--help",), "Train and tamper"),
        (("--version",), "0.1.0"),
        (("repare", "a.safetensors"), "repair"),
        (("repair", "a.safetensors", "--step", "3"), "--step"),
        (("repair", "a.safetensors", "--step", "3"), "See isthmus repair --help"),
        (("repare", "a.safetensors"), "See isthmus --help"),
        (
            ("repair", "there.json", *MODEL, "--clean", "digits", "--out", "o", "--rho", "nan"),
            "finite",
        ),
        (("repair", "there.json", *MODEL, "--clean", "digits"), "--out"),
        (
            ("evaluate", "a.safetensors", *MODEL, "--data", "digits:test"),
            "got a.safetensors, which does not exist",
        ),
        (
            ("train", *MODEL, "--data", "nowhere.npz#n=5", "--out", "b.safetensors"),
            "got nowhere.npz, which does not exist",
        ),
        (("train", *MODEL, "--data", "digits", "--out", "there.json"), "which exists"),
        (("train", *MODEL, "--data", "digits", "--out", "b.pt"), "pickles"),
        (("poison", "digits", "--out", "b.csv"), "write b.csv"),
        (("demo", "--out", "full"), "not an empty folder"),
        (("evaluate", "there.json", *MODEL, "--trigger", "patch"), "both or none"),
        (
            (
                "repair",
                "there.json",
                *MODEL,
                "--clean",
                "d",
                "--out",
                "o",
                "--t",
                "1",
                "--tolerance",
                "1",
            ),
            "both --t",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_what_is_refused_at_once_imports_nothing_heavy(arguments, says, tmp_path):
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    status, text, heavy = started(*arguments, folder=tmp_path)
    assert says.replace("b.csv", "b.npz") in text
    assert status == (0 if arguments[0].startswith("--") else 2)
    assert not heavy


def test_the_package_itself_imports_nothing_heavy(tmp_path):
    code = "import sys, isthmus; print(dir(isthmus)); print({m.split('.')[0] for m in sys.modules})"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    names, modules = process.stdout.splitlines()
    assert "'repair'" in names
    assert "'load_checkpoint'" in names
    assert not [package for package in HEAVY if f"'{package}'" in modules]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_of_every_command_is_explained(command):
    page = application(command.name)[command.name]
    silent = [
        argument.name
        for argument in page.assemble_argument_collection(parse_docstring=True)
        if not argument.parameter.help and argument.parse and argument.show
    ]
    assert not silent


@pytest.mark.parametrize("text", ["5.7", "1e-3", "x", "inf", "nan", str(10**30), str(10**400), ""])
@pytest.mark.parametrize("option", ["--neighbors", "--seed", "--attack-steps"])
def test_an_integer_is_neither_rounded_nor_too_large(option, text, tmp_path):
    line = refused_line(tmp_path, "detect", "fit", "--clean", "digits", "--out", "o", option, text)
    assert option in line and not (tmp_path / "o").exists()


def refused_line(folder, *arguments):
    found = isthmus(*arguments, folder=folder)
    assert found.returncode == 2 and found.stderr.count("\n") == 1, found.stderr
    return found.stderr


@pytest.mark.parametrize("text", ["30", "30.0", "3e1", "+30"])
def test_an_integer_may_be_written_as_a_number(text):
    assert whole(int, [SimpleNamespace(value=text)]) == 30


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_number_that_a_command_takes_is_refused_where_it_is_not_finite(command):
    page = application(command.name)[command.name]
    arguments = page.assemble_argument_collection(parse_docstring=True)
    for hint in {argument.hint for argument in arguments if is_dataclass(argument.hint)}:
        assert get_type_hints(hint.__init__)  # as cyclopts reads them: in the module of a subclass
    numbers = [one for one in arguments if {float, int} & {one.hint, *get_args(one.hint)}]
    loose = [argument.name for argument in numbers if finite not in argument.parameter.validator]
    assert not loose, "say Number, not float"
    counts = [one for one in numbers if int in {one.hint, *get_args(one.hint)}]
    rounded = [argument.name for argument in counts if argument.parameter.converter is not whole]
    assert not rounded, "say Whole, not int: cyclopts rounds"


def test_the_help_of_an_option_is_broken_where_the_terminal_ends(tmp_path, monkeypatch):
    for columns, unbroken in (("400", True), ("60", False)):
        monkeypatch.setenv("COLUMNS", columns)
        _, text, _ = started("train", "--help", folder=tmp_path)
        assert ("PKG.MODULE:FACTORY,width=8 for a callable of yours" in text) == unbroken


@pytest.mark.parametrize("command", ["poison", "evaluate"])
def test_the_help_of_trigger_names_every_trigger(command):
    page = application(command)[command]
    arguments = page.assemble_argument_collection(parse_docstring=True)
    (text,) = [argument.parameter.help for argument in arguments if argument.name == "--trigger"]
    kinds = [kind.__name__.lower() for kind in _trigger_kinds()]
    assert [kind for kind in kinds if kind not in text.lower()] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_overview_says_what_the_page_of_a_command_says_first(command):
    assert command.page().splitlines()[0] == command.summary


def test_no_command_takes_more_than_ten_parameters():
    for command in COMMANDS:
        function = application(command.name)[command.name].default_command
        code = function.__code__
        assert code.co_argcount + code.co_kwonlyargcount <= 10


def test_types_and_pages_are_part_of_the_package():
    package = resources.files("isthmus")
    assert (package / "py.typed").is_file()
    assert (package / "__init__.pyi").is_file()
    assert (package / "models/__init__.pyi").is_file()


def test_an_interrupt_while_the_command_line_loads_is_one_line():
    code = """
import sys
class Interrupts:
    def find_spec(self, name, *rest):
        if name == "cyclopts": raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
import isthmus.cli
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 130 and ended.stderr.count("\n") == 1, ended.stderr
    assert "interrupted" in ended.stderr
