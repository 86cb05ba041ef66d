"""isthmus repairs, evaluates and hardens neural networks along low-loss paths between them."""

from isthmus.align import permuted_copy
from isthmus.balls import L1, L2, Linf
from isthmus.batchnorm import recalibrate
from isthmus.connection import connect
from isthmus.curve import Bezier, Curve, PolyChain, expected_over_t
from isthmus.data import Augment, Data, as_data, split
from isthmus.hessian import input_hessian, input_hessian_top
from isthmus.inspection import inspect
from isthmus.losses import adversarial, cross_entropy, sharpness_aware, trades
from isthmus.metrics import Accuracy, AttackSuccess, InjectionSuccess, MeanLoss, RobustAccuracy
from isthmus.path import Path, evaluate_path
from isthmus.repair import Repair, repair
from isthmus.sources import load_data
from isthmus.train import fit
from isthmus.triggers import Blend, Patch, poison
from isthmus.types import BadInput

__version__ = "0.1.0"
__all__ = [
    "L1",
    "L2",
    "Accuracy",
    "AttackSuccess",
    "Augment",
    "BadInput",
    "Bezier",
    "Blend",
    "Curve",
    "Data",
    "InjectionSuccess",
    "Linf",
    "MeanLoss",
    "Patch",
    "Path",
    "PolyChain",
    "Repair",
    "RobustAccuracy",
    "adversarial",
    "as_data",
    "connect",
    "cross_entropy",
    "evaluate_path",
    "expected_over_t",
    "fit",
    "input_hessian",
    "input_hessian_top",
    "inspect",
    "load_data",
    "permuted_copy",
    "poison",
    "recalibrate",
    "repair",
    "sharpness_aware",
    "split",
    "trades",
]
