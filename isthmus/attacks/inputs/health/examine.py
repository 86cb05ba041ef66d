"""Can this robust accuracy be trusted? All indicators of one attack on one network."""

from __future__ import annotations

from torch import nn

from isthmus.attacks.inputs.health.by_products import BY_PRODUCTS, AttackWatch
from isthmus.attacks.inputs.health.indicator import Run, judged
from isthmus.attacks.inputs.health.probes.sample import canonical
from isthmus.attacks.inputs.health.probes.table import PROBES
from isthmus.attacks.inputs.memory import Memory
from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.health import Health
from isthmus.metrics.passes import Passes, Watch
from isthmus.types import Attack

INDICATORS = (*BY_PRODUCTS, *PROBES)
"""Every indicator, by what a run leaves and by further passes."""


def health(model: nn.Module, data: Source, attack: Attack) -> Health:
    """Return whether the accuracy of the network on the data under the attack can be trusted.

    Runs the attack once and probes 48 samples at most; with five restarts of PGD-10 on 256 samples
    that is less than twice the cost of the attack, where not nearly all are fooled at once
    (docs/health.md has figures). The order of the samples changes nothing. Raises BadInput as the
    attack does, and where the data do not fit the network.

    >>> import torch
    >>> from isthmus.attacks import PGD
    >>> from isthmus.data import Linf
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    >>> x = torch.rand(32, 1, 4, 4)
    >>> samples = Data(x, net(x).argmax(1), classes=4)
    >>> health(net, samples, PGD(Linf(0.02), steps=10, restarts=2)).trustworthy
    True
    """
    samples = as_data(data)
    samples = samples[canonical(samples)]
    passes = Passes(model)
    passes.random(samples)
    moved, watch = passes.watched(samples, attack)
    return examine(passes, attack, samples, moved, watch)


def examine(
    passes: Passes, attack: Attack, clean: Data, moved: Data, watch: Watch | None
) -> Health:
    """Return the health of an attack that was run; `RobustAccuracy` takes it as `examine`."""
    return judged(examined(passes, attack, clean, moved, watch), INDICATORS)


def examined(passes: Passes, attack: Attack, clean: Data, moved: Data, watch: Watch | None) -> Run:
    """Return the run that indicators look at; one without memory where nobody watched."""
    memory = watch.memory if isinstance(watch, AttackWatch) else Memory()
    return Run(passes, attack, clean, moved, memory)
