"""isthmus repairs, evaluates and hardens neural networks along low-loss paths between them."""

from isthmus.batchnorm import recalibrate
from isthmus.curve import Bezier, Curve, PolyChain, expected_over_t
from isthmus.data import Augment, Data, as_data, split
from isthmus.train import fit
from isthmus.types import BadInput

__version__ = "0.1.0"
__all__ = [
    "Augment",
    "BadInput",
    "Bezier",
    "Curve",
    "Data",
    "PolyChain",
    "as_data",
    "expected_over_t",
    "fit",
    "recalibrate",
    "split",
]
