"""Balls, attacks, losses, triggers and targets from the words of a command line.

Only literals are read; nothing is executed. Several norms, separated by commas, stand for the union
of their balls: an attack by name is then the worst of its attacks in each (`WorstOf`), a loss by
name trains against `MSD`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import fields
from fractions import Fraction
from typing import Any, Literal

import torch

from isthmus.attacks.inputs.apgd import APGD
from isthmus.attacks.inputs.fab import FAB
from isthmus.attacks.inputs.gradient import MSD, PGD, fgsm
from isthmus.attacks.inputs.momentum import MIFGSM
from isthmus.attacks.inputs.single_step import NoiseFGSM
from isthmus.attacks.inputs.square import Square
from isthmus.attacks.inputs.victim import check_ball
from isthmus.attacks.inputs.worst import WorstOf, auto_attack
from isthmus.attacks.triggers.blend import Blend
from isthmus.attacks.triggers.low_frequency import LowFrequency
from isthmus.attacks.triggers.patch import Patch
from isthmus.attacks.triggers.sinusoid import Sinusoid
from isthmus.attacks.triggers.warp import Warp
from isthmus.data.balls import L1, L2, Ball, Linf
from isthmus.metrics.success import Target
from isthmus.runs.wording import suggestion
from isthmus.training.losses import adversarial, cross_entropy, trades
from isthmus.types import Attack, BadInput, Loss, Trigger

AttackName = Literal[
    "fgsm", "pgd", "mi-fgsm", "apgd", "apgd-dlr", "apgd-targeted", "fab", "square", "autoattack"
]


LossName = Literal["cross-entropy", "adversarial", "trades", "fast"]


_NORMS: dict[str, type[Linf | L2 | L1]] = {"linf": Linf, "l2": L2, "l1": L1}


_RADII = {
    "linf": "8/255",
    "l2": "0.5",
    "l1": "12",
}  # usual for CIFAR-10 (Maini et al., ICML 2020, for l1)


def parse_balls(norms: str | None, radii: str | None, shape: Sequence[int]) -> tuple[Ball, ...]:
    """Return the balls that norms and radii name, for images of the given shape (c, h, w); l-inf
    for want of a norm.

    Radii are in units of images in [0, 1], 8/255, 0.5 and 12 where they are left out. Raises
    BadInput where a norm is unknown, a radius is no number, or the ball holds nothing or every
    image.

    >>> parse_balls("l2,l1", "1/2,3", (3, 32, 32))
    (L2(eps=0.5), L1(eps=3.0, share=0.01))
    """
    names = [name.strip().lower() for name in (norms or "linf").split(",")]
    for name in names:
        if name not in _NORMS:
            raise BadInput(
                f"norm {name!r}", expected="linf, l2 or l1", fix=suggestion(name, _NORMS)
            )
    words = radii.split(",") if radii is not None else [_RADII[name] for name in names]
    if len(words) != len(names):
        raise BadInput(
            f"{len(words)} radii",
            expected=f"{len(names)}, one for each norm",
            fix="--eps 8/255,0.5",
        )
    balls = tuple(_NORMS[name](_number(word)) for name, word in zip(names, words, strict=True))
    for ball in balls:
        whole = float(ball.norm(torch.ones(1, *shape)))
        if not 0 < ball.eps < whole:
            raise BadInput(
                f"eps = {ball.eps:g} for {type(ball).__name__}",
                expected=f"more than 0 and less than {whole:g}, which reaches every image",
                fix="give eps in units of images in [0, 1], such as 8/255",
            )
    return balls


def _number(text: str) -> float:
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadInput(
            f"eps {text!r}", expected="a number or a fraction", fix="write 8/255 or 0.03"
        ) from error


def parse_attack(
    name: AttackName,
    balls: Sequence[Ball],
    *,
    steps: int | None = None,
    restarts: int | None = None,
    seed: int = 0,
) -> Attack:
    """Return the attack of that name, in the union of the balls; steps and restarts as the attack
    has them by default.

    Raises BadInput where the attack has no such option, an option is out of range, or the ball is
    not one of its own.

    >>> parse_attack("apgd", [Linf(0.1)], steps=20).steps
    20
    """
    given = {"steps": steps, "restarts": restarts}
    options = {option: value for option, value in given.items() if value is not None}
    if name in ("fgsm", "autoattack") and options:
        raise BadInput(
            f"{' and '.join(options)} for {name}",
            expected="none",
            fix="its budget is fixed; take pgd",
        )
    attacks = [_attack(name, ball, seed, options) for ball in balls]
    return attacks[0] if len(attacks) == 1 else WorstOf(attacks)


def _attack(name: AttackName, ball: Ball, seed: int, options: dict[str, Any]) -> Attack:
    match name:
        case "fgsm":
            return fgsm(ball, seed)
        case "pgd":
            return PGD(ball, seed=seed, **options)
        case "mi-fgsm":
            return MIFGSM(ball, seed=seed, **options)
        case "apgd":
            return APGD(ball, "ce", seed=seed, **options)
        case "apgd-dlr":
            return APGD(ball, "dlr", seed=seed, **options)
        case "apgd-targeted":
            return APGD(ball, "targeted", seed=seed, **options)
        case "fab":
            return FAB(ball, seed=seed, **options)
        case "square":
            queries = {
                "queries" if option == "steps" else option: value
                for option, value in options.items()
            }
            return Square(check_ball(ball, "Square"), seed=seed, **queries)
        case "autoattack":
            return auto_attack(check_ball(ball, "AutoAttack"), seed=seed)


def parse_loss(
    name: LossName, balls: Sequence[Ball], *, steps: int | None = None, beta: float | None = None
) -> Loss:
    """Return the loss of that name against perturbations in the union of the balls.

    "adversarial" and "trades" take 7 and 10 steps for want of another number; "fast" one, by
    `NoiseFGSM`. Raises BadInput where the loss has no such option, or one is out of range."""
    if steps is not None and name in ("fast", "cross-entropy"):
        raise BadInput(
            f"{steps} steps of attack for --loss {name}",
            expected="none",
            fix="take --loss adversarial",
        )
    if beta is not None and name != "trades":
        raise BadInput(
            f"beta = {beta:g} for --loss {name}", expected="none", fix="take --loss trades"
        )
    match name:
        case "cross-entropy":
            return cross_entropy
        case "adversarial":
            return adversarial(_ascent(balls, 7 if steps is None else steps))
        case "trades":
            return trades(
                _ascent(balls, 10 if steps is None else steps), 6.0 if beta is None else beta
            )
        case "fast":
            return adversarial(
                WorstOf([NoiseFGSM(ball) for ball in balls])
                if len(balls) > 1
                else NoiseFGSM(balls[0])
            )


def _ascent(balls: Sequence[Ball], steps: int) -> PGD | MSD:
    return MSD(balls, steps) if len(balls) > 1 else PGD(balls[0], steps)


_KINDS: tuple[Any, ...] = (Patch, Blend, Sinusoid, LowFrequency, Warp)


def _usage(kind: Any) -> str:
    """Name a trigger and the settings that a text can give it."""
    return (
        f"{kind.__name__}({', '.join(f'{f.name}=' for f in fields(kind) if f.name != 'pattern')})"
    )


def parse_trigger(text: str) -> Trigger:
    """Return the trigger that a text names, with settings as in Python: "patch", "Blend(alpha=0.1,
    seed=3)".

    Case and underscores in the name do not matter. Raises BadInput where the name or a setting is
    unknown, or a setting is out of range.

    >>> parse_trigger("Patch(size=2, at=(0, 0))"), parse_trigger("low_frequency(size=0.2)").size
    (Patch(size=2, at=(0, 0), value=1.0), 0.2)
    """
    kinds: dict[str, Callable[..., Trigger]] = {kind.__name__.lower(): kind for kind in _KINDS}
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        name = call.func.id if isinstance(call.func, ast.Name) and not call.args else text
        return kinds[name.lower().replace("_", "")](**settings)
    except BadInput:
        raise
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise BadInput(
            f"trigger {text!r}",
            expected=" or ".join(map(_usage, _KINDS)),
            fix="settings may be left out: --trigger patch",
        ) from error


def parse_target(text: str) -> Target:
    """Return the target that a text names: a class index or "all". Raises BadInput otherwise.

    >>> parse_target("1"), parse_target("all")
    (1, 'all')
    """
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise BadInput(
            f"target {text!r}",
            expected="a class index or 'all'",
            fix="pass --target 1, or --target all",
        )
    return int(text)
