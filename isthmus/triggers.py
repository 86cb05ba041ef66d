"""Backdoor triggers, poisoned training sets and triggered evaluation sets.

Source: Gu et al., BadNets, 2017 (patch); Chen et al., 2017 (blend); Zhao et al., ICLR 2020, section 3.2 (all-targets).

Where we depart from the papers' code: images whose true class is already the target are neither poisoned nor counted
as hits, the all-targets shift runs modulo the number of classes, and triggers act on [0, 1] before normalisation.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isthmus.data import Data
from isthmus.types import BadInput, Trigger

Target = int | Literal["all"]
"""The class that triggered inputs are sent to, or "all": each class i to i + 1, the last one to 0."""


@dataclass(frozen=True)
class Patch:
    """A solid square of `size` pixels; by default 3x3 white, one pixel free at the bottom and right border.

    `at` is its (row, column), negative from the far border; `value` one number in [0, 1] or one per channel.

    >>> Patch()(torch.zeros(1, 1, 32, 32))[0, 0].nonzero()[[0, -1]].tolist()
    [[28, 28], [30, 30]]
    """

    size: int = 3
    at: tuple[int, int] | None = None
    value: float | Sequence[float] = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Return x with the patch. Raises BadInput where it leaves the image or has the wrong number of channels."""
        height, width = x.shape[-2:]
        at = self.at or (-self.size - 1, -self.size - 1)
        row, column = (i + length if i < 0 else i for i, length in zip(at, (height, width), strict=True))
        if min(row, column) < 0 or self.size < 1 or row + self.size > height or column + self.size > width:
            raise BadInput(
                f"a {self.size}x{self.size} patch at {at}",
                expected=f"a patch inside the {height}x{width} image",
                fix="choose size and at",
            )
        value = torch.as_tensor(self.value, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
        if len(value) not in (1, x.shape[1]) or not bool(((value >= 0) & (value <= 1)).all()):
            raise BadInput(
                f"patch value {self.value}", expected=f"1 or {x.shape[1]} numbers in [0, 1]", fix="fix value"
            )
        x = x.clone()
        x[..., row : row + self.size, column : column + self.size] = value
        return x


@dataclass(frozen=True)
class Blend:
    """A whole-image blend, (1 - alpha) x + alpha pattern; the pattern is uniform noise drawn once from `seed`.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> bool((Blend(alpha=0.0)(x) == x).all())
    True
    """

    alpha: float = 0.2
    seed: int = 0
    pattern: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the blended images. Raises BadInput where alpha is not in [0, 1] or the pattern does not fit."""
        if not 0 <= self.alpha <= 1:
            raise BadInput(f"alpha = {self.alpha}", expected="0 <= alpha <= 1", fix="choose alpha")
        pattern = self.pattern
        if pattern is None:
            pattern = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        if pattern.shape != x.shape[1:]:
            raise BadInput(
                f"a pattern of shape {tuple(pattern.shape)}", expected=f"{tuple(x.shape[1:])}", fix="resize the pattern"
            )
        return torch.lerp(x, pattern.to(x), self.alpha)


def target_of(y: Tensor, target: Target, classes: int) -> Tensor:
    """Return the label that the attacker wants for inputs of the true classes y, shape (n,).

    Raises BadInput where the target is no class.

    >>> target_of(torch.tensor([0, 9]), "all", 10).tolist(), target_of(torch.tensor([0, 9]), 1, 10).tolist()
    ([1, 0], [1, 1])
    """
    if target == "all":
        return (y + 1) % classes
    if not isinstance(target, int) or not 0 <= target < classes:
        raise BadInput(f"target {target!r}", expected=f"a class 0..{classes - 1} or 'all'", fix="choose the target")
    return torch.full_like(y, target)


def eligible(data: Data, target: Target) -> Tensor:
    """Return the indices of the samples whose true class is not the target, the only ones an attack is judged on."""
    return (target_of(data.y, target, data.num_classes) != data.y).nonzero().squeeze(1)


def triggered(data: Data, trigger: Trigger, target: Target) -> Data:
    """Return the eligible samples with the trigger on and the target as label: accuracy on them is attack success.

    Raises BadInput where no sample is eligible.
    """
    index = eligible(data, target)
    if not len(index):
        raise BadInput(
            "only samples of the target class", expected="some of another class", fix="choose another target"
        )
    clean = data[index]
    return clean.with_floats(trigger(clean.floats()), target_of(clean.y, target, data.num_classes))


def poison(data: Data, trigger: Trigger, *, rate: float, target: Target, generator: torch.Generator) -> Data:
    """Return the training set of an attacker: a share `rate` of each non-target class triggered and relabelled.

    The order of the samples stays. Raises BadInput where the rate is not in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise BadInput(f"poison rate {rate}", expected="0 <= rate <= 1", fix="pass a share such as 0.1")
    pool = eligible(data, target)
    chosen = []
    for label in data.y[pool].unique():
        members = pool[data.y[pool] == label]
        members = members[torch.randperm(len(members), generator=generator)]
        chosen.append(members[: round(rate * len(members))])
    index = torch.cat(chosen) if chosen else pool
    x, y = data.x.clone(), data.y.clone()
    if len(index):
        changed = triggered(data[index], trigger, target)
        x[index], y[index] = changed.x, changed.y
    return Data(x, y, data.classes)


def parse_trigger(text: str) -> Trigger:
    """Return the trigger that a text names, with settings as in Python: "patch", "Blend(alpha=0.1, seed=3)".

    Only literals are read; nothing is executed. Raises BadInput where the name or a setting is unknown.

    >>> parse_trigger("Patch(size=2, at=(0, 0))")
    Patch(size=2, at=(0, 0), value=1.0)
    """
    kinds: dict[str, Callable[..., Trigger]] = {"patch": Patch, "blend": Blend}
    try:
        tree = ast.parse(text, mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        name = call.func.id.lower() if isinstance(call.func, ast.Name) and not call.args else text
        return kinds[name](**settings)
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise BadInput(
            f"trigger {text!r}",
            expected="Patch(size=, at=(row, column), value=) or Blend(alpha=, seed=)",
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
        raise BadInput(f"target {text!r}", expected="a class index or 'all'", fix="pass --target 1, or --target all")
    return int(text)
