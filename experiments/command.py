"""What the command lines of the experiments on CIFAR-10 have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from scale import SCALES

from isthmus import Data, load_data


def parser(doc: str | None, *verbs: str) -> argparse.ArgumentParser:
    """Return a parser of --data and --scale, and of one of the verbs where there are several."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if verbs:
        made.add_argument("what", choices=verbs)
    made.add_argument(
        "--data",
        type=Path,
        help="folder of train.parquet and test.parquet in the Hugging Face layout",
    )
    made.add_argument("--scale", default="small", choices=list(SCALES))
    return made


def parsed(options: argparse.ArgumentParser, table: Callable[[str], str]) -> argparse.Namespace:
    """Return the arguments; where they ask for the table of a scale, print it and leave."""
    args = options.parse_args()
    if args.what == "table":
        print(table(args.scale))
        raise SystemExit
    return args


def use_threads() -> None:
    """Let torch have the threads that it may: all of the machine's, or those that OMP_NUM_THREADS
    says.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


@cache
def parts(data: str) -> tuple[Data, Data]:
    """Return the training and the test images of a folder in the Hugging Face layout, read once."""
    train, test = (load_data(Path(data) / f"{part}.parquet") for part in ("train", "test"))
    return train, test


def slug(name: str) -> str:
    """Return a name as part of a file's."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())


class Sets:
    """The images of a scale, each part read once and only if it is asked for; torch gets the
    threads it may have.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        use_threads()
        self.load = cache(lambda part: SCALES[args.scale].load(args.data, part))

    @property
    def train(self) -> Data:
        """The training images."""
        return self.load("train")

    @property
    def test(self) -> Data:
        """The test images."""
        return self.load("test")
