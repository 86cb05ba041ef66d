"""Evasion attacks: inputs close to given ones that a network gets wrong. `(model, x, y) -> x_adv`, all of them values.

`docs/attacks.md` has the table of attacks, sources and defaults.
"""

from isthmus.attacks.apgd import APGD
from isthmus.attacks.fab import FAB
from isthmus.attacks.gradient import MSD, PGD, fgsm
from isthmus.attacks.parsing import AttackName, LossName, parse_attack, parse_balls, parse_loss
from isthmus.attacks.single_step import NoiseFGSM, random_fgsm
from isthmus.attacks.square import Square
from isthmus.attacks.worst import WorstOf, auto_attack

__all__ = [
    "APGD",
    "FAB",
    "MSD",
    "PGD",
    "AttackName",
    "LossName",
    "NoiseFGSM",
    "Square",
    "WorstOf",
    "auto_attack",
    "fgsm",
    "parse_attack",
    "parse_balls",
    "parse_loss",
    "random_fgsm",
]
