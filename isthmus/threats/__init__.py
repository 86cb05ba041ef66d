"""Attackers who do more than poison a set, one file each: what a repair is judged on.

They return an ordinary network or a poisoned set, and the trigger where it is learned. Those who train do so with
`fit`, so steps, seed and device are the options that a defender has. Where each departs from its paper is said there
and listed in docs/threats.md.
"""

from isthmus.threats.hardened import Hardened
from isthmus.threats.input_aware import GeneratedTrigger, InputAware
from isthmus.threats.label_consistent import label_consistent
from isthmus.threats.low_frequency import learned_low_frequency
from isthmus.threats.path_aware import path_aware
from isthmus.threats.permutation_aware import PermutationAware
from isthmus.threats.planted import planted

__all__ = [
    "GeneratedTrigger",
    "Hardened",
    "InputAware",
    "PermutationAware",
    "label_consistent",
    "learned_low_frequency",
    "path_aware",
    "planted",
]
