"""`repair`: second endpoint, curve, path, choice, network. It receives bonafide data and nothing else.

Source: Zhao et al., ICLR 2020, section 3; specification, sections 1 to 6 and 12.

Where we depart: the curve is trained as `connect` does, and t is drawn where the answer is sought; the point is chosen
by a rule on bonafide samples that the curve was not trained on, instead of by a fixed t or by the attacker's trigger;
with one checkpoint the second endpoint is made, and with few samples it is a repaired network itself: the mean of a
point on a curve and of a fine-tuned copy, to which the path is straight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from statistics import median
from typing import Unpack

from torch import nn

from isthmus.batchnorm import batchnorm_layers
from isthmus.connection import (
    HIGH,
    LOW,
    RHO,
    AfterStep,
    Budgeted,
    OnCurve,
    check_trained,
    connect,
    curve_options,
    made_end,
    plain,
    sharpened,
)  # fmt: skip
from isthmus.curve import Bezier, Curve
from isthmus.data import Data, Source, as_data, hold_out
from isthmus.defenses import FTSAM, Averaged
from isthmus.inversion import KINDS, InvertedSuccess, invert
from isthmus.losses import cross_entropy
from isthmus.metrics import Accuracy, MeanLoss, check_above_chance, least_drop
from isthmus.path import Path, evaluate_path, grid, network_at
from isthmus.select import BONAFIDE, FAR, TOLERANCE, Choice, Rule, fixed, up_to
from isthmus.train import History, Training
from isthmus.types import BadInput, Defense, Loss, Metric, describe

FEW = 1000  # samples; with fewer a curve overfits, and the average of two repairs is ahead: docs/results/bakeoff.md;
# not so in networks without BatchNorm, where it costs far more than a curve: docs/experiments.md
NEAR, END = 0.5, 1.0  # where t is sought on a straight path whose end is a repaired network
CURVE_T, CURVE_RHO, COPY_RHO = 0.2, 3.0, 4.0  # of the two repairs that are averaged
AVERAGED = (
    f"averaged repairs: a point on a curve (t = {CURVE_T:g}, rho {CURVE_RHO:g}) "
    f"and a sharpness-aware fine-tuned copy (rho {COPY_RHO:g})"
)

Watch = Callable[[nn.Module, Data, Data], Mapping[str, Metric]]
"""Makes further metrics for a rule to read, of the tampered network, the samples that train and those that measure."""


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired network and how it came about.

    `model` is an ordinary module in eval mode with the state-dict keys of the tampered one. `path` was measured on
    `held_out`, which the curve was not trained on, with BatchNorm recalibrated on `fitted` alone. `second` says where
    `other`, the network at t = 1, is from, and `spent` how many gradients making it took.
    """

    model: nn.Module
    t: Choice
    curve: Curve
    path: Path
    other: nn.Module
    second: str
    history: History | None
    fitted: Data = field(repr=False)
    held_out: Data = field(repr=False)
    settings: dict[str, object] = field(default_factory=dict)
    spent: int = 0

    @property
    def damaged(self) -> bool:
        """Whether held-out samples show beyond doubt that even the most accurate inner point costs too much."""
        values = self.path[BONAFIDE]
        inner = [v for t, v in zip(self.path.t, values, strict=True) if 0 < t < 1 or t == self.t]
        return min(least_drop(max(values), v) for v in inner) > TOLERANCE


STAND_INS = "inverted trigger success"


def stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """Return the defender's stand-in for the attack success rate: how well the oddest trigger still works.

    Triggers are inverted on the tampered network, patches and whole-image perturbations, from the samples that train;
    of those that lead to a class, or away from every class, the one that is smallest beside the median of its kind is
    asked on the samples that measure. For `repair(..., watch=stand_ins, rule=settled(STAND_INS))`. Source: ours;
    docs/results/rules.md has it with a smaller search. Raises BadInput for fewer than three classes.
    """
    gaps = []
    for kind in KINDS:
        found = invert(tampered, fitted, kind=kind, targets=[*range(fitted.num_classes), "any"])
        middle = median(each.score for each in found)
        gaps += [(middle - each.score, each) for each in found]
    oddest = max(gaps, key=lambda each: each[0])[1]
    return {STAND_INS: InvertedSuccess(held_out, [oddest])}


def averaged_repairs(home: File | None = None, **training: Unpack[Training]) -> Averaged:
    """Return the second endpoint for few samples: the mean of a point on a curve and of a fine-tuned copy.

    Both are sharpness-aware, start from the tampered network and fail on different backdoors. Options are those of a
    curve with as many gradients in all, two a step: two thirds of them for a curve to `second_endpoint`'s copy, a third
    for FT-SAM. Unfinished training is kept in `home`. A path to it is straight and sought from NEAR to END:
    `repair(..., bends=0, low=0.5, high=1.0)`. Source: ours, docs/experiments.md.
    """
    options = curve_options(training)
    third = 2 * options["steps"] // 3
    if third < 2:
        raise BadInput(
            f"steps = {options['steps']} for the mean of two repairs", expected="3 or more", fix="raise steps (--steps)"
        )
    curve, tuned = _kept_in(home, "curve", options), _kept_in(home, "copy", plain(options))
    curve["steps"], tuned["steps"] = 2 * third, third
    return Averaged((OnCurve(curve, t=CURVE_T, rho=CURVE_RHO), FTSAM(tuned, rho=COPY_RHO)))


def default_rule(low: float, high: float, *, enough: bool) -> Rule:
    """Return the rule for t in [low, high]: a t, or less where held-out accuracy objects, if enough are held out.

    That t is FAR, or where FAR is not among them the end of the interval.
    """
    far = FAR if low <= FAR <= high else high
    return up_to(far) if enough else fixed(far)


def _kept_in(home: File | None, name: str, training: Training) -> Training:
    kept = training.copy()
    if home is not None:
        kept["checkpoint"] = home / f"{name}.state"
    return kept


def _end_costs_too_much(path: Path) -> bool:
    """Whether the samples show beyond doubt that the end of a path has lost more accuracy than rules allow."""
    values = path[BONAFIDE]
    return least_drop(max(values), values[-1]) > TOLERANCE


def few(tampered: nn.Module, bonafide: Data) -> bool:
    """Return whether the mean of two repairs is the better second endpoint: fewer than FEW samples, and BatchNorm."""
    return len(bonafide) < FEW and bool(batchnorm_layers(tampered))


def to_the_mean(
    tampered: nn.Module,
    bonafide: Source,
    *,
    folder: str | File | None = None,
    points: int = 21,
    watch: Watch | None = None,
    holdout: float = 0.2,
    **training: Unpack[Training],
) -> Repair:
    """Return the repair on the straight path to `averaged_repairs`. Arguments and errors are those of `repair`."""
    home = File(folder) if folder else None
    found = repair(
        tampered, bonafide, averaged_repairs(home, **training), bends=0, low=NEAR, high=END, points=points, watch=watch,
        holdout=holdout, folder=home, **training,
    )  # fmt: skip
    return replace(found, second=AVERAGED)


_CURVE = (Bezier, 1, cross_entropy, RHO, True, LOW, HIGH, None)  # what `repair` does where nothing else is asked for


def repair(
    tampered: nn.Module,
    bonafide: Source,
    other: nn.Module | Defense | None = None,
    *,
    kind: type[Curve] = Bezier,
    bends: int = 1,
    loss: Loss = cross_entropy,
    rho: float = RHO,
    adaptive: bool = True,
    low: float = LOW,
    high: float = HIGH,
    rule: Rule | None = None,
    watch: Watch | None = None,
    after_step: AfterStep | None = None,
    points: int | Sequence[float] = 21,
    holdout: float = 0.2,
    folder: str | File | None = None,
    **training: Unpack[Training],
) -> Repair:
    """Return a repaired network: the point that `rule` trusts on a curve from `tampered` (t = 0) to `other` (t = 1).

    `other` is a network, or a way to make one of the tampered network and the bonafide samples (`endpoints`, or any
    defense); without it, a permuted copy of the tampered network. With fewer than FEW samples, a network with BatchNorm
    and nothing asked for that describes a curve, a rule or values of t, it is `averaged_repairs`, and the path to it
    straight; where the samples object to that network, the curve follows after all. A curve is
    trained sharpness-aware (`loss`, `rho`, `adaptive`, `after_step`: see `connect`) where t is sought, in [low, high],
    and measured at `points` (equally spaced t there, or the values) and at both ends. `holdout` of the bonafide samples
    choose t and train nothing; with 100 samples or fewer all of them train, and the choice claims no confidence.
    `watch` adds metrics to the path for `rule` to read, see `stand_ins`.
    `folder` keeps what has been computed, so that the same call goes on after an interruption. `training` is `fit`'s.

    Raises BadInput where the samples are fewer than the classes, the network is at chance on them, or the endpoints
    differ in architecture.

    >>> from isthmus import fit
    >>> from isthmus.models import mlp
    >>> from isthmus.sources import load_data
    >>> digits = load_data("digits")
    >>> a, b = mlp(channels=1, size=8), mlp(channels=1, size=8)
    >>> _ = [fit(net, digits, steps=150, lr=0.1) for net in (a, b)]
    >>> found = repair(a, digits[:300], b, points=5, steps=30)
    >>> found.t in found.path.t and found.model.state_dict().keys() == a.state_dict().keys()
    True
    """
    bonafide, home, seed = as_data(bonafide), File(folder) if folder else None, training.get("seed", 0)
    nothing_asked = other is None and rule is None
    nothing_asked &= (kind, bends, loss, rho, adaptive, low, high, after_step) == _CURVE
    if nothing_asked and isinstance(points, int) and few(tampered, bonafide):
        mean = to_the_mean(tampered, bonafide, folder=home, points=points, watch=watch, holdout=holdout, **training)
        if not _end_costs_too_much(mean.path):
            return mean
        home, points = home / "curve" if home else None, grid(points, low, high)
        curved = repair(tampered, bonafide, points=points, watch=watch, holdout=holdout, folder=home, **training)
        second = f"{curved.second}, for the mean of two repairs cost too much accuracy"
        return replace(curved, second=second, spent=curved.spent + mean.spent)
    fitted, held_out = hold_out(bonafide, holdout, seed)
    ts = (0.0, *grid(points, low, high), 1.0)
    known = other if isinstance(other, nn.Module) else tampered
    kind(tampered, known, bends)  # refuses impossible curves and mismatched endpoints before any work
    sharpened(loss, rho, adaptive)  # as it does losses that have no such form
    check_trained(bends, loss, after_step)
    for each in dict.fromkeys((tampered, known)):
        check_above_chance(each, bonafide)
    end = made_end(other, tampered, fitted, _kept_in(home, "other", training))
    options = _kept_in(home, "curve", training)
    curve, history = connect(
        tampered, end.network, fitted, kind=kind, bends=bends, loss=loss, rho=rho, adaptive=adaptive, low=low,
        high=high, after_step=after_step, **options,
    )  # fmt: skip
    metrics: dict[str, Metric] = {BONAFIDE: Accuracy(held_out), "bonafide loss": MeanLoss(held_out)}
    metrics |= watch(tampered, fitted, held_out) if watch else {}
    path = evaluate_path(curve, metrics, sorted({*ts}), recalibrate_on=fitted, folder=home / "points" if home else None)
    t = (rule or default_rule(low, high, enough=held_out is not fitted))(path)
    model = network_at(curve, float(t), fitted)
    used = curve_options(training)
    settings = {"kind": kind.__name__, "bends": bends, "weight_decay": used["weight_decay"], "holdout": holdout}
    settings |= {"low": low, "high": high}
    if bends:  # without them nothing is trained by these
        settings |= {"rho": rho, "adaptive": adaptive, "clip": used["clip"]}
        settings |= {} if loss is cross_entropy else {"loss": describe(loss)}
    return Repair(model, t, curve, path, end.network, end.source, history, fitted, held_out, settings, end.spent)


@dataclass(frozen=True)
class AlongPath(Budgeted):
    """`repair` with the signature and the budget of a defense.

    Where the samples object to the mean of two repairs, no curve follows, which would spend the budget twice: the rule
    goes back along the straight path.
    """

    rule: Rule | None = None

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network that `repair` chooses. Raises BadInput as `repair` does."""
        data, options, plainly = as_data(bonafide), self.options(), AlongPath(self.training)
        if self == plainly and few(tampered, data):
            return to_the_mean(tampered, data, **options).model
        return repair(tampered, data, self.other, rule=self.rule, **self.shape(), **options).model
