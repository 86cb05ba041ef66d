"""Networks built to fool those who evaluate: each is flagged for its reason, and its number comes
down; honest ones are not flagged. `experiments/attack_health.py` counts false alarms over more.
"""

import warnings

import pytest
from support.foolers import ATTACK, FOOLERS, HONEST, digits, honest

from isthmus.attacks import ZeroGradients, health
from isthmus.metrics import Accuracy, RobustAccuracy

pytestmark = pytest.mark.numeric

SAMPLES = digits()[1]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroGradients)
        yield


@pytest.mark.parametrize("name", FOOLERS)
def test_a_network_that_fools_is_flagged_for_its_reason(name):
    fooler = FOOLERS[name]
    net = fooler.make()
    found = health(net, SAMPLES[: fooler.samples], fooler.attack)
    assert Accuracy(SAMPLES)(net) > 0.8
    assert not found.trustworthy
    assert set(fooler.reasons) & set(found.fired), found.fired
    assert len(found.warnings) == len(found.fired)


@pytest.mark.parametrize("name", [name for name, row in FOOLERS.items() if row.stronger])
def test_a_stronger_attack_brings_its_number_down(name):
    fooler = FOOLERS[name]
    net = fooler.make()
    believed = RobustAccuracy(SAMPLES, fooler.attack)(net)
    known = RobustAccuracy(SAMPLES, fooler.stronger)(net)
    assert known < believed - 0.05


ROBUST = ("LayerNorm", "GELU")  # the others take longer to train; the experiment has all of them
PAIRS = [*((kind, False) for kind in HONEST), *((kind, True) for kind in ROBUST)]


@pytest.mark.parametrize(("kind", "robust"), PAIRS)
def test_an_honest_network_is_not_flagged(kind, robust):
    found = health(honest(kind, robust=robust), SAMPLES, ATTACK)
    assert found.trustworthy, found.warnings
