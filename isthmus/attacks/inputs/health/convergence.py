"""Has each climb ended at a maximum? From what the climbs left, over samples that still stand.

Source: Deng et al., ICML 2020 (iterations, alignment, boundary, restarts); Pintor et al., NeurIPS
2022 (incomplete optimization). Samples that are fooled need no further climb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from isthmus.attacks.inputs.health.indicator import Run
from isthmus.attacks.inputs.memory import Track

MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The steps at which a gain curve is read."""


def _over(run: Run, quantity: Callable[[Track], Tensor]) -> Tensor:
    """Return a quantity (..., n) of every track for its standing samples, as one flat tensor
    without NaN.
    """
    parts = [quantity(track)[..., track.standing].flatten() for track in run.tracks]
    values = torch.cat([torch.zeros(0), *(part.float() for part in parts)])
    return values[~values.isnan()]


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def iterations(run: Run) -> float | None:
    """Return the median number of steps until a climb moves by at most 1 % of the radius; infinite
    where it still moved at the end.
    """
    values = _over(run, lambda track: track.settled)
    return float(values.sort().values[(len(values) - 1) // 2]) if len(values) else None


def alignment(run: Run) -> float | None:
    """Return the mean agreement of the last perturbation with the gradient there, at most 1."""
    return _mean(_over(run, lambda track: track.aligned))


def boundary(run: Run) -> float | None:
    """Return the mean norm of the last perturbation, as a share of the radius."""
    return _mean(_over(run, lambda track: track.edge))


def _best(track: Track) -> Tensor:
    """Return the best value that each climb has seen up to each look, (trials, steps, n)."""
    return track.values.nan_to_num(-torch.inf).cummax(1).values


def spreads(track: Track) -> Tensor:
    """Return (max - min) / max of the best values of the starts, (n,); NaN without restarts.

    A maximum is counted from 0 up: of an objective that may be negative, the size counts.
    """
    if track.trials < 2 or not track.restarts:
        return torch.full((track.values.shape[2],), torch.nan)
    ends = _best(track)[:, -1]
    high, low = ends.amax(0), ends.amin(0)
    spread = (high - low) / high.abs().clamp_min(1e-30)
    return torch.where(ends.isinf().any(0), torch.nan, spread)


def spread(run: Run) -> float | None:
    """Return the mean spread over restarts of the objective's best value."""
    return _mean(_over(run, spreads))


def maxima(run: Run) -> float | None:
    """Return the mean number of different directions in which the starts ended."""
    several = [track for track in run.tracks if track.restarts and track.trials > 1]
    parts = [track.maxima[track.standing].float() for track in several]
    return _mean(torch.cat([torch.zeros(0), *parts]))


def gains(track: Track) -> Tensor:
    """Return what each climb has gained up to each look, as a share of the most that any start
    gained, (trials, steps, n): 0 at the starts' lowest value, 1 at the best of all.

    NaN for a sample whose climbs gained nothing.
    """
    best = _best(track)
    first = track.values[:, 0].nan_to_num(torch.inf).amin(0)
    gained = best[:, -1].amax(0) - first
    shares = (best - first) / gained
    return torch.where(gained > 0, shares, torch.nan)


def gain_curve(tracks: Sequence[Track], steps: Sequence[int] = MARKS) -> dict[int, Tensor]:
    """Return the shares of the gain after 1, 2, 5, ... steps, each for all starts and standing
    samples together.
    """
    curve: dict[int, Tensor] = {}
    for step in steps:
        parts = [
            gains(track)[:, step, track.standing].flatten()
            for track in tracks
            if track.values.shape[1] > step
        ]
        values = torch.cat([torch.zeros(0), *parts])
        if len(values):
            curve[step] = values[values.isfinite()]
    return curve


def reach(run: Run) -> float | None:
    """Return how far all steps together go, over the radius; None where the attack has no fixed
    step.
    """
    steps = getattr(run.attack, "steps", None)
    step = getattr(run.attack, "step", None)
    if steps is None or step is None or run.ball is None or run.ball.eps == 0:
        return None
    return float(steps * step / run.ball.eps)


def still_rising(run: Run) -> float | None:
    """Return the share of all gain that the last tenth of the steps brought, the last one at least,
    on average; None of a climb of fewer than two steps.
    """
    tracks = [track for track in run.tracks if track.values.shape[1] > 2]
    parts = []
    for track in tracks:
        looks = track.values.shape[1]
        late = max(1, round(0.1 * (looks - 1)))
        best = _best(track)
        gained = best[:, -1] - track.values[:, 0]
        share = (best[:, -1] - best[:, -1 - late]) / gained
        share = torch.where(gained > 0, share, torch.nan)
        parts.append(share[:, track.standing].flatten())
    values = torch.cat([torch.zeros(0), *parts])
    return _mean(values[values.isfinite()])
