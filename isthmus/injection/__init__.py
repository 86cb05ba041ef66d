"""Errors injected into the weights of a trained network; one call, `method(network, errors, kept) -> Injected`."""

from isthmus.injection.errors import LEAST_KEPT, draw, mislabelled
from isthmus.injection.fault_sneaking import FaultSneaking
from isthmus.injection.hinges import Injected, Injection
from isthmus.injection.penalised import Penalised
from isthmus.injection.reference import Reference

__all__ = ["LEAST_KEPT", "FaultSneaking", "Injected", "Injection", "Penalised", "Reference", "draw", "mislabelled"]
