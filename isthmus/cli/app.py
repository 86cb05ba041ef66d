"""The application: its commands, how a run starts, and how it ends.

Every error that a user can cause ends in one line on standard error and exit status 2; Ctrl-C ends
in status 130, and SIGTERM, which is heeded alike, in 143.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.help.formatters import DefaultFormatter

from isthmus import runs
from isthmus.cli.checks import finite
from isthmus.cli.signals import ignore, signal_of, terminable
from isthmus.cli.terminal import flushed, leave, write_any_text
from isthmus.runs.notices import plain_notices
from isthmus.runs.progress import shown
from isthmus.runs.versions import __version__
from isthmus.runs.wording import unwritten
from isthmus.types import BadInput

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

REPAIR = Group("Repair", sort_key=1)
TRAIN = Group("Train and tamper", sort_key=2)
MEASURE = Group("Measure", sort_key=3)
LOOK = Group("Look", sort_key=4)

SHELLS = 128
"""What shells add to the number of the signal that ended a process."""

BROKEN_PIPE = SHELLS + 13
"""The status of a process that ended because nobody reads its output any more, as of SIGPIPE."""

RESUMES = "the same command with --resume goes on from what was saved, if anything was"
KEEPS_POINTS = "the same command goes on from the points that were measured"
KEEPS_BATCHES = "with --out, the same command goes on from the batches that were attacked"
STARTS_OVER = "nothing was written; the same command starts over"


@dataclass(frozen=True)
class Command:
    """A row of the help page: the command `name` is `isthmus.cli.name:name_command`.

    `summary` is its line in the overview, the first sentence of its docstring; `interrupted` says
    how to go on after Ctrl-C or SIGTERM.
    """

    name: str
    group: Group
    summary: str
    interrupted: str = STARTS_OVER

    @property
    def path(self) -> str:
        """Where the function is, in the form that is imported only when the command runs."""
        return f"isthmus.cli.{self.name}:{self.name}_command"

    def page(self) -> str:
        """Return the docstring up to its parameters, one line for each paragraph."""
        module, _, function = self.path.partition(":")
        text = getattr(import_module(module), function).__doc__.partition(":param")[0]
        paragraphs = inspect.cleandoc(text).split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


COMMANDS = (
    Command("repair", REPAIR, "Repair a checkpoint with clean samples.", RESUMES),
    Command("connect", REPAIR, "Train a curve of low loss between two checkpoints.", RESUMES),
    Command("export", REPAIR, "Write one network of a curve as a checkpoint."),
    Command("align", REPAIR, "Permute the channels of one checkpoint to match another."),
    Command("compare", REPAIR, "Repair a checkpoint by the path and by other defenses.", RESUMES),
    Command("prune", REPAIR, "Drop weights or channels of a checkpoint and train the rest."),
    Command("quantize", REPAIR, "Round a checkpoint's weights to few levels and train them there."),
    Command("train", TRAIN, "Train a network and write it as a checkpoint.", RESUMES),
    Command("poison", TRAIN, "Write a training set with a backdoor in it."),
    Command("inject", TRAIN, "Change weights so that some images take wrong labels."),
    Command("flip", TRAIN, "Flip random bits of the weights, as memory faults do."),
    Command("evaluate", MEASURE, "Measure accuracy, loss, attack success and robustness."),
    Command("certify", MEASURE, "Prove which answers no input within eps changes."),
    Command("detect", MEASURE, "Flag inputs that are far from trusted data."),
    Command("screen", MEASURE, "Say which trusted samples do not belong."),
    Command("attack", MEASURE, "Attack the inputs of a checkpoint.", KEEPS_BATCHES),
    Command("health", MEASURE, "Say whether a robust accuracy can be trusted."),
    Command("inspect", MEASURE, "Say whether a checkpoint obeys an oddly small trigger."),
    Command("references", MEASURE, "Collect inspections of clean networks for inspect."),
    Command("path", MEASURE, "Measure the networks along a curve.", KEEPS_POINTS),
    Command("plane", MEASURE, "Measure the plane through three checkpoints."),
    Command(
        "sweep",
        MEASURE,
        "Do the jobs of a sweep that are not done yet, and gather them in a table and a plot.",
        "the same command goes on with the jobs that are not finished",
    ),
    Command("report", LOOK, "Render the page of a report.json again."),
    Command(
        "demo", LOOK, "Backdoor, repair and compare networks on scikit-learn's digits.", RESUMES
    ),
)


class Unbroken(DefaultFormatter):
    """The help page without the line breaks of docstrings: an option's text is broken where the
    terminal ends and nowhere else.
    """

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a panel of the page."""
        for entry in panel.entries:
            text = getattr(entry.description, "primary_renderable", None)
            if text is not None:
                text.plain = " ".join(text.plain.split())
        super().__call__(console, options, panel)


def application(chosen: str | None = None) -> App:
    """Return the application, in which the `chosen` command has its docstring as its help page.

    The others have their summary; they are not imported. Help is plain text because Markdown takes
    longer to load than all the rest.
    """
    app = App(
        name="isthmus",
        version=__version__,
        help="Repair, evaluate and harden neural networks along low-loss paths between them.",
        help_format="plaintext",
        help_formatter=Unbroken(),
        default_parameter=Parameter(validator=finite),
        suppress_keyboard_interrupt=False,  # `main` says how to go on
    )
    for i, command in enumerate(COMMANDS):
        text = command.page() if command.name == chosen else command.summary
        app.command(command.path, name=command.name, group=command.group, help=text, sort_key=i)
    return app


def _joined_ranks() -> AbstractContextManager[object]:
    """Return the block in which the processes of a `torchrun` launch work together."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return runs.joined_ranks() if several else nullcontext()


def _reason(error: CycloptsError, chosen: str | None) -> str:
    """Return the one line that says why a command line cannot be read, and which page helps."""
    if isinstance(error.__cause__, BadInput):  # from a check of `checks.py`
        return str(error.__cause__)
    known = chosen in {command.name for command in COMMANDS}
    page = f"isthmus {chosen}" if known else "isthmus"
    return f"{' '.join(str(error).split())} See {page} --help."


def _of_the_system(error: OSError) -> BadInput | None:
    """Return the refusal of what no command can do anything about: a name that is too long for the
    file system, a full disk; None for other errors.
    """
    if error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        return BadInput(
            f"a name of {len(name)} characters ({name[:40]}...)",
            expected="one that the file system takes: 255 bytes in most",
            fix="check the path, or shorten it",
        )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    if error.filename is not None:
        return unwritten(error.filename, error)
    return BadInput(
        "standard output on a full disk",
        expected="room for what is printed",
        fix="free some space, or send it elsewhere",
    )


def _how_to_go_on(chosen: str | None) -> str:
    lines = [command.interrupted for command in COMMANDS if command.name == chosen]
    return lines[0] if lines else STARTS_OVER


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process: status 0, 2 for input that cannot be used or
    output that cannot be written, 130 when interrupted, 143 when terminated, 141 where the reader
    of the output left.
    """
    with terminable():
        _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(words: list[str]) -> None:
    """Run the command line, and leave the process where it does not end well."""
    chosen = words[0] if words else None
    write_any_text()
    try:
        with flushed(), _joined_ranks(), shown(), plain_notices():
            application(chosen)(
                words, result_action="return_value", exit_on_error=False, print_error=False
            )
    except BadInput as error:
        leave(2, str(error))
    except CycloptsError as error:
        leave(2, _reason(error, chosen))
    except KeyboardInterrupt as error:
        ignore(error)
        leave(SHELLS + signal_of(error), f"interrupted; {_how_to_go_on(chosen)}")
    except BrokenPipeError:
        leave(BROKEN_PIPE)
    except OSError as error:
        refusal = _of_the_system(error)
        if refusal is None:
            raise
        leave(2, str(refusal))
