"""Evasion attacks: inputs close to given ones that a network gets wrong. `(model, x, y) -> x_adv`, all of them values.

`docs/attacks.md` has the table of attacks, sources and defaults.
"""

from isthmus.attacks.apgd import APGD
from isthmus.attacks.fab import FAB
from isthmus.attacks.gradient import PGD, check_single_step, fgsm, random_fgsm
from isthmus.attacks.square import Square
from isthmus.attacks.worst import WorstOf, auto_attack

__all__ = ["APGD", "FAB", "PGD", "Square", "WorstOf", "auto_attack", "check_single_step", "fgsm", "random_fgsm"]
