"""Balls, attacks, losses, triggers and targets from the words of a command line.

Only literals are read; nothing is executed but a trigger of the user's own, PKG.MODULE:FUNCTION.
Several norms, separated by commas, stand for the union
of their balls: an attack by name is then the worst of its attacks in each (`WorstOf`), a loss by
name trains against `MSD`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from fractions import Fraction
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from isthmus import attacks, data, training
from isthmus.runs.wording import suggestion, whole_number
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.attacks import MSD, PGD
    from isthmus.data import Ball
    from isthmus.metrics import Target
    from isthmus.types import Attack, Loss, Trigger

AttackName = Literal[
    "fgsm", "pgd", "mi-fgsm", "apgd", "apgd-dlr", "apgd-targeted", "fab", "square", "autoattack"
]
LossName = Literal["cross-entropy", "adversarial", "trade-off", "trades", "fast"]


_RADII = {"linf": "8/255", "l2": "0.5", "l1": "12"}
"""Usual for CIFAR-10 (Maini et al., ICML 2020, for l1)."""


def parse_balls(norms: str | None, radii: str | None, shape: Sequence[int]) -> tuple[Ball, ...]:
    """Return the balls that norms and radii name, for images of the given shape (c, h, w), by
    default l-inf.

    Radii are in units of images in [0, 1], 8/255, 0.5 and 12 where they are left out. Raises
    BadInput where a norm is unknown, a radius is no number, or the ball holds nothing or every
    image.

    >>> parse_balls("l2,l1", "1/2,3", (3, 32, 32))
    (L2(eps=0.5), L1(eps=3.0, share=0.01))
    """
    import torch

    kinds: dict[str, Callable[[float], Ball]] = {"linf": data.Linf, "l2": data.L2, "l1": data.L1}
    names = [name.strip().lower() for name in (norms or "linf").split(",")]
    for name in names:
        if name not in kinds:
            raise BadInput(f"norm {name!r}", expected="linf, l2 or l1", fix=suggestion(name, kinds))
    words = radii.split(",") if radii is not None else [_RADII[name] for name in names]
    if len(words) != len(names):
        raise BadInput(
            f"{len(words)} radii",
            expected=f"{len(names)}, one for each norm",
            fix="--eps 8/255,0.5",
        )
    balls = tuple(
        kinds[name](_number(word, "eps")) for name, word in zip(names, words, strict=True)
    )
    for ball in balls:
        whole = float(ball.norm(torch.ones(1, *shape)))
        if not 0 < ball.eps < whole:
            raise BadInput(
                f"eps = {ball.eps:g} for {type(ball).__name__}",
                expected=f"more than 0 and less than {whole:g}, which reaches every image",
                fix="give eps in units of images in [0, 1], such as 8/255",
            )
    return balls


def parse_numbers(text: str, name: str) -> list[float]:
    """Return the numbers or fractions between commas. Raises BadInput where one is neither.

    >>> parse_numbers("0.5, 1/4", "eps")
    [0.5, 0.25]
    """
    return [_number(word, name) for word in text.split(",")]


def _number(text: str, name: str) -> float:
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadInput(
            f"{name} {text!r}", expected="a number or a fraction", fix="write 8/255 or 0.03"
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

    >>> parse_attack("apgd", parse_balls("linf", "0.1", (1, 8, 8)), steps=20).steps
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
    members = [_attack(name, ball, seed, options) for ball in balls]
    return members[0] if len(members) == 1 else attacks.WorstOf(members)


def _attack(name: AttackName, ball: Ball, seed: int, options: dict[str, Any]) -> Attack:
    match name:
        case "fgsm":
            return attacks.fgsm(ball, seed)
        case "pgd":
            return attacks.PGD(ball, seed=seed, **options)
        case "mi-fgsm":
            return attacks.MIFGSM(ball, seed=seed, **options)
        case "apgd":
            return attacks.APGD(ball, "ce", seed=seed, **options)
        case "apgd-dlr":
            return attacks.APGD(ball, "dlr", seed=seed, **options)
        case "apgd-targeted":
            return attacks.APGD(ball, "targeted", seed=seed, **options)
        case "fab":
            return attacks.FAB(ball, seed=seed, **options)
        case "square":
            renamed = {"queries" if o == "steps" else o: value for o, value in options.items()}
            return attacks.Square(attacks.check_ball(ball, "Square"), seed=seed, **renamed)
        case "autoattack":
            return attacks.auto_attack(attacks.check_ball(ball, "AutoAttack"), seed=seed)


def parse_loss(
    name: LossName, balls: Sequence[Ball], *, steps: int | None = None, beta: float | None = None
) -> Loss:
    """Return the loss of that name against perturbations in the union of the balls.

    By default "adversarial" and "trade-off" take 7 steps and "trades" 10; "fast" takes one, by
    `NoiseFGSM`. The weights of "trade-off" sum to 1, so that a learning rate means the same as with
    "adversarial". Raises BadInput if the loss has no such option, or one is out of range.
    """
    if steps is not None and name in ("fast", "cross-entropy"):
        raise BadInput(
            f"{steps} steps of attack for --loss {name}",
            expected="none",
            fix="take --loss adversarial",
        )
    if beta is not None and name not in ("trades", "trade-off"):
        raise BadInput(
            f"beta = {beta:g} for --loss {name}", expected="none", fix="take --loss trades"
        )
    match name:
        case "cross-entropy":
            return training.cross_entropy
        case "adversarial":
            return training.adversarial(_ascent(balls, 7 if steps is None else steps))
        case "trade-off":
            return _traded(_ascent(balls, 7 if steps is None else steps), beta)
        case "trades":
            ascent = _ascent(balls, 10 if steps is None else steps)
            return training.trades(ascent, 6.0 if beta is None else beta)
        case "fast":
            members = [attacks.NoiseFGSM(ball) for ball in balls]
            worst = members[0] if len(members) == 1 else attacks.WorstOf(members)
            return training.adversarial(worst)


def _traded(attack: PGD | MSD, beta: float | None) -> Loss:
    """Return the trade-off in which attacked inputs count `beta` times as much as clean ones, by
    default as much. Raises BadInput where that is not above 0.
    """
    ratio = 1.0 if beta is None else beta
    if not 0 < ratio < inf:
        raise BadInput(
            f"beta = {ratio:g} for --loss trade-off",
            expected="above 0: how much attacked inputs count beside clean ones",
            fix="pass --beta 1, or take --loss cross-entropy for clean ones alone",
        )
    return training.trade_off(attack, 1 / (1 + ratio), ratio / (1 + ratio))


def _ascent(balls: Sequence[Ball], steps: int) -> PGD | MSD:
    return attacks.MSD(balls, steps) if len(balls) > 1 else attacks.PGD(balls[0], steps)


_OWN = re.compile(r"[\w.]+:\w+")
"""How a trigger of the user's own is named."""


def _trigger_kinds() -> tuple[Any, ...]:
    return attacks.Patch, attacks.Blend, attacks.Sinusoid, attacks.LowFrequency, attacks.Warp


def _usage(kind: Any) -> str:
    """Name a trigger and the settings that a text can give it."""
    settings = [f"{field.name}=" for field in fields(kind) if field.name != "pattern"]
    return f"{kind.__name__}({', '.join(settings)})"


def parse_trigger(text: str) -> Trigger:
    """Return the trigger that a text names, with settings as in Python: "patch", "Blend(alpha=0.1,
    seed=3)"; "PKG.MODULE:FUNCTION" is a function of the user's own, or an object like one, that
    makes images x (n, c, h, w) in [0, 1] into triggered ones.

    Case and underscores in the name do not matter. Raises BadInput where the name or a setting is
    unknown, or a setting is out of range.

    >>> parse_trigger("Patch(size=2, at=(0, 0))"), parse_trigger("low_frequency(size=0.2)").size
    (Patch(size=2, at=(0, 0), value=1.0), 0.2)
    """
    if _OWN.fullmatch(text.strip()):
        return attacks.OwnTrigger.named(text.strip())
    kinds: dict[str, Callable[..., Trigger]] = {
        kind.__name__.lower(): kind for kind in _trigger_kinds()
    }
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        name = call.func.id if isinstance(call.func, ast.Name) and not call.args else text
        return kinds[name.lower().replace("_", "")](**settings)
    except BadInput:
        raise
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"trigger {text!r}",
            expected=" or ".join(map(_usage, _trigger_kinds())),
            fix="--trigger patch leaves settings out; PKG.MODULE:FUNCTION is one of your own",
        ) from error


def parse_target(text: str, classes: Sequence[str] = ()) -> Target:
    """Return the target that a text names: a class by its name or index, or "all".

    Raises BadInput if the text is no class, or the name of one class and the index of another.

    >>> parse_target("1"), parse_target("all"), parse_target("cat", ("dog", "cat"))
    (1, 'all', 1)
    """
    if text == "all":
        return "all"
    by_name = classes.index(text) if text in classes else None
    by_index = whole_number(text)
    both = by_name is not None and by_index is not None and by_index < len(classes)
    if both and by_name != by_index:
        raise BadInput(
            f"target {text!r}, the name of class {by_name} and the index of another",
            expected="one class",
            fix="give the classes names that are no numbers",
        )
    target = by_index if by_name is None else by_name
    if target is None:
        raise BadInput(
            f"target {text!r}",
            expected="a class by name or index, or 'all'",
            fix=suggestion(text, classes) if classes else "pass --target 1, or --target all",
        )
    return target
