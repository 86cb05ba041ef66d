"""APGD: its checkpoints, and that its defaults need no tuning."""

from dataclasses import replace

import pytest
from support.attacked import loss_of

from isthmus import Data
from isthmus.attacks import APGD, PGD
from isthmus.attacks.inputs.apgd import checkpoints
from isthmus.data import L2
from isthmus.metrics import RobustAccuracy

pytestmark = pytest.mark.numeric


def test_apgd_reconsiders_its_step_where_the_paper_does():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert all(0 < at <= 7 for at in checkpoints(7))


def test_apgd_with_its_defaults_needs_no_tuning_to_match_pgd(net, samples):
    """Same number of gradients, the objective not worse on average than the best of three fixed
    steps.
    """
    x, y = samples
    pgds = [
        PGD(L2(0.25), steps=20, step=s, returns="worst", random_start=False)
        for s in (0.01, 0.05, 0.25)
    ]
    best = max(float(loss_of(net, pgd(net, x, y), y).mean()) for pgd in pgds)
    tough = Data(x, y, 4)
    apgd = RobustAccuracy(tough, APGD(L2(0.25), "ce", steps=20))(net)
    assert (
        apgd
        <= min(RobustAccuracy(tough, replace(pgd, returns="fooled"))(net) for pgd in pgds) + 0.05
    )
    assert best > float(loss_of(net, x, y).mean())
