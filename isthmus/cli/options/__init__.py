"""The options that several commands share, and those of `repair`: one group a file.

Each group is a frozen dataclass that cyclopts flattens into options, with methods that turn the
words into the values that the library takes. Only these methods load the rooms of the library. The
help of a group is read from its source, file by file: small files keep `--help` quick.
"""

from isthmus.cli.network import ModelSpec
from isthmus.cli.options.budget import Budget, NetworkBudget, SmallBudget
from isthmus.cli.options.curve import CurveOptions
from isthmus.cli.options.evaluation import EvaluationOptions
from isthmus.cli.options.evasion import Evasion
from isthmus.cli.options.landscape import LandscapeOptions
from isthmus.cli.options.measurement import Measurement
from isthmus.cli.options.objective import RobustTraining
from isthmus.cli.options.threat import Threat
from isthmus.cli.options.values import (
    Clean,
    InputFile,
    NewFile,
    NewNpz,
    Number,
    Samples,
    Whole,
)

__all__ = [
    "Budget",
    "Clean",
    "CurveOptions",
    "EvaluationOptions",
    "Evasion",
    "InputFile",
    "LandscapeOptions",
    "Measurement",
    "ModelSpec",
    "NetworkBudget",
    "NewFile",
    "NewNpz",
    "Number",
    "RobustTraining",
    "Samples",
    "SmallBudget",
    "Threat",
    "Whole",
]
