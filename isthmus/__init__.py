"""isthmus repairs, evaluates and hardens neural networks along low-loss paths between them."""

from isthmus.batchnorm import recalibrate
from isthmus.curve import Bezier, Curve, PolyChain, expected_over_t
from isthmus.data import Augment, Data, as_data, split
from isthmus.losses import cross_entropy, sharpness_aware
from isthmus.metrics import Accuracy, AttackSuccess, MeanLoss
from isthmus.path import Path, evaluate_path
from isthmus.repair import Repair, connect, repair
from isthmus.sources import load_data
from isthmus.train import fit
from isthmus.triggers import Blend, Patch, poison
from isthmus.types import BadInput

__version__ = "0.1.0"
__all__ = [
    "Accuracy",
    "AttackSuccess",
    "Augment",
    "BadInput",
    "Bezier",
    "Blend",
    "Curve",
    "Data",
    "MeanLoss",
    "Patch",
    "Path",
    "PolyChain",
    "Repair",
    "as_data",
    "connect",
    "cross_entropy",
    "evaluate_path",
    "expected_over_t",
    "fit",
    "load_data",
    "poison",
    "recalibrate",
    "repair",
    "sharpness_aware",
    "split",
]
