"""Backdoor triggers, one file each, and the poisoned and triggered sets that are made with them."""

from isthmus.triggers.blend import Blend
from isthmus.triggers.low_frequency import LowFrequency
from isthmus.triggers.parsing import parse_target, parse_trigger
from isthmus.triggers.patch import Patch
from isthmus.triggers.poisoning import Target, changed, eligible, poison, target_of, triggered
from isthmus.triggers.sinusoid import Sinusoid
from isthmus.triggers.warp import Warp

__all__ = [
    "Blend",
    "LowFrequency",
    "Patch",
    "Sinusoid",
    "Target",
    "Warp",
    "changed",
    "eligible",
    "parse_target",
    "parse_trigger",
    "poison",
    "target_of",
    "triggered",
]
