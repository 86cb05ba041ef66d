"""`repair`: second endpoint, curve, path, choice, network. It receives bonafide data and nothing
else.

Source: Zhao et al., ICLR 2020, section 3.

Where we depart: the curve is trained as `connect` does, and t is drawn where the answer is sought;
the point is chosen by a rule on bonafide samples that the curve was not trained on, instead of by a
fixed t or by the attacker's trigger; with one checkpoint the second endpoint is made, and with few
samples it is a repaired network itself: the mean of a point on a curve and of a fine-tuned copy, to
which the path is straight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Unpack

from torch import nn

from isthmus.curves.connection import (
    HIGH,
    LOW,
    RHO,
    AfterStep,
    check_trained,
    connect,
    curve_options,
    sharpened,
)
from isthmus.curves.curve import Bezier, Curve
from isthmus.curves.point import network_at
from isthmus.data.dataset import Data, Source, as_data
from isthmus.data.splits import hold_out
from isthmus.defenses.curve_repair.averaged import (
    AVERAGED,
    END,
    NEAR,
    _kept_in,
    averaged_repairs,
    few,
)
from isthmus.defenses.curve_repair.endpoints import made_end
from isthmus.defenses.curve_repair.rules import (
    BONAFIDE,
    TOLERANCE,
    Choice,
    Rule,
    _end_costs_too_much,
    default_rule,
)
from isthmus.defenses.curve_repair.stand_ins import Watch
from isthmus.metrics.accuracy import Accuracy, MeanLoss, check_above_chance
from isthmus.metrics.path import Path, evaluate_path, grid
from isthmus.metrics.values import least_drop
from isthmus.runs.identity import identity_of
from isthmus.training.budget import History, Training
from isthmus.training.losses import cross_entropy
from isthmus.types import Defense, Loss, Metric


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired network and how it came about.

    `model` is an ordinary module in eval mode with the state-dict keys of the tampered one. `path`
    was measured on `held_out`, which the curve was not trained on, with BatchNorm recalibrated on
    `fitted` alone. `second` says where `other`, the network at t = 1, is from, and `spent` how many
    gradients making it took."""

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
        """Whether held-out samples show beyond doubt that even the most accurate inner point costs
        too much.
        """
        values = self.path[BONAFIDE]
        inner = [v for t, v in zip(self.path.t, values, strict=True) if 0 < t < 1 or t == self.t]
        return min(least_drop(max(values), v) for v in inner) > TOLERANCE


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
    """Return the repair on the straight path to `averaged_repairs`. Arguments and errors are those
    of `repair`.
    """
    home = File(folder) if folder else None
    found = repair(
        tampered,
        bonafide,
        averaged_repairs(home, **training),
        bends=0,
        low=NEAR,
        high=END,
        points=points,
        watch=watch,
        holdout=holdout,
        folder=home,
        **training,
    )
    return replace(found, second=AVERAGED)


_CURVE = (
    Bezier,
    1,
    cross_entropy,
    RHO,
    True,
    LOW,
    HIGH,
    None,
)  # what `repair` does where nothing else is asked for


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
    """Return a repaired network: the point that `rule` trusts on a curve from `tampered` (t = 0) to
    `other` (t = 1).

    `other` is a network, or a way to make one of the tampered network and the bonafide samples
    (`endpoints`, or any defense); without it, a permuted copy of the tampered network. With fewer
    than FEW samples, a network with BatchNorm and nothing asked for that describes a curve, a rule
    or values of t, it is `averaged_repairs`, and the path to it straight; where the samples object
    to that network, the curve follows after all. A curve is trained sharpness-aware (`loss`, `rho`,
    `adaptive`, `after_step`: see `connect`) where t is sought, in [low, high], and measured at
    `points` (equally spaced t there, or the values) and at both ends. `holdout` of the bonafide
    samples choose t and train nothing; with 100 samples or fewer all of them train, and the choice
    claims no confidence. `watch` adds metrics to the path for `rule` to read, see `stand_ins`.
    `folder` keeps what has been computed, so that the same call goes on after an interruption.
    `training` is `fit`'s.

    Raises BadInput where the samples are fewer than the classes, the network is at chance on them,
    or the endpoints differ in architecture.

    >>> from isthmus import fit
    >>> from isthmus.models import mlp
    >>> from isthmus.data import load_data
    >>> digits = load_data("digits")
    >>> a, b = mlp(channels=1, size=8), mlp(channels=1, size=8)
    >>> _ = [fit(net, digits, steps=150, lr=0.1) for net in (a, b)]
    >>> found = repair(a, digits[:300], b, points=5, steps=30)
    >>> found.t in found.path.t and found.model.state_dict().keys() == a.state_dict().keys()
    True
    """
    bonafide, home, seed = (
        as_data(bonafide),
        File(folder) if folder else None,
        training.get("seed", 0),
    )
    nothing_asked = other is None and rule is None
    nothing_asked &= (kind, bends, loss, rho, adaptive, low, high, after_step) == _CURVE
    if nothing_asked and isinstance(points, int) and few(tampered, bonafide):
        mean = to_the_mean(
            tampered, bonafide, folder=home, points=points, watch=watch, holdout=holdout, **training
        )
        if not _end_costs_too_much(mean.path):
            return mean
        home, points = home / "curve" if home else None, grid(points, low, high)
        curved = repair(
            tampered, bonafide, points=points, watch=watch, holdout=holdout, folder=home, **training
        )
        second = f"{curved.second}, for the mean of two repairs cost too much accuracy"
        return replace(curved, second=second, spent=curved.spent + mean.spent)
    fitted, held_out = hold_out(bonafide, holdout, seed)
    ts = (0.0, *grid(points, low, high), 1.0)
    known = other if isinstance(other, nn.Module) else tampered
    kind(
        tampered, known, bends
    )  # refuses impossible curves and mismatched endpoints before any work
    sharpened(loss, rho, adaptive)  # as it does losses that have no such form
    check_trained(bends, loss, after_step)
    for each in dict.fromkeys((tampered, known)):
        check_above_chance(each, bonafide)
    end = made_end(other, tampered, fitted, _kept_in(home, "other", training))
    options = _kept_in(home, "curve", training)
    curve, history = connect(
        tampered,
        end.network,
        fitted,
        kind=kind,
        bends=bends,
        loss=loss,
        rho=rho,
        adaptive=adaptive,
        low=low,
        high=high,
        after_step=after_step,
        **options,
    )
    metrics: dict[str, Metric] = {BONAFIDE: Accuracy(held_out), "bonafide loss": MeanLoss(held_out)}
    metrics |= watch(tampered, fitted, held_out) if watch else {}
    path = evaluate_path(
        curve,
        metrics,
        sorted({*ts}),
        recalibrate_on=fitted,
        folder=home / "points" if home else None,
    )
    t = (rule or default_rule(low, high, enough=held_out is not fitted))(path)
    model = network_at(curve, float(t), fitted)
    used = curve_options(training)
    settings = {
        "kind": kind.__name__,
        "bends": bends,
        "weight_decay": used["weight_decay"],
        "holdout": holdout,
    }
    settings |= {"low": low, "high": high}
    if bends:  # without them nothing is trained by these
        settings |= {"rho": rho, "adaptive": adaptive, "clip": used["clip"]}
        settings |= {} if loss is cross_entropy else {"loss": identity_of(loss)}
    return Repair(
        model,
        t,
        curve,
        path,
        end.network,
        end.source,
        history,
        fitted,
        held_out,
        settings,
        end.spent,
    )
