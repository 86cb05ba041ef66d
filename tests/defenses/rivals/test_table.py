"""Whether defenses do what they are for, on backdoored digit classifiers that train in seconds.

The laws that all defenses share are in `test_every_defense.py`."""

from statistics import median

import pytest
import torch
from support.refusals import refused
from support.victims import samples
from torch import nn

from isthmus import Accuracy, AttackSuccess, Patch, fit, load_data, poison
from isthmus.defenses import CLP, FTSAM, IBAU, all_rivals, rival
from isthmus.models import small_cnn
from isthmus.training import Training, one_cycle

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def backdoored():
    """Three digit classifiers that obey a patch, 200 bonafide samples, and the two questions of a
    judge.

    Three, because what one training gives differs between processors by more than a bound could
    allow for: the median of three is asked for."""
    digits, rest, trigger = load_data("digits:train"), load_data("digits:test"), Patch(size=2)
    bonafide, judged = rest[:200], rest[200:]
    nets = []
    for seed in range(3):
        poisoned = poison(
            digits, trigger, rate=0.1, target=1, generator=torch.Generator().manual_seed(seed)
        )
        torch.manual_seed(seed)
        nets.append(small_cnn(channels=1, width=8))
        fit(nets[-1], poisoned, steps=120, lr=0.2, schedule=one_cycle, seed=seed, precision="fp32")
    reads, obeys = Accuracy(judged), AttackSuccess(judged, trigger, 1)
    assert median(map(reads, nets)) > 0.9 and median(map(obeys, nets)) > 0.9
    return nets, bonafide, reads, obeys


@pytest.mark.parametrize(
    "name, make, accuracy, success",
    [
        ("FT-SAM", lambda o: FTSAM(o.replace(lr=0.1)), 0.85, 0.3),
        ("I-BAU", lambda o: IBAU(o.replace(lr=0.01, steps=240)), 0.7, 0.6),
        ("NAD", lambda o: all_rivals(o.replace(lr=0.05))["NAD"], 0.75, 0.6),
        ("from scratch", lambda o: all_rivals(o.replace(lr=0.1))["from scratch"], 0.8, 0.1),
    ],
)
def test_on_digits_the_backdoor_weakens_and_the_digits_are_still_read(
    name, make, accuracy, success, backdoored
):
    """ANP and CLP, which prune what stands out, have a network of their own in `test_anp.py` and
    `test_clp.py`.
    """
    nets, bonafide, reads, obeys = backdoored
    training = Training(steps=120, lr=0.1, batch_size=64, precision="fp32")
    repaired = [make(training.replace(seed=seed))(net, bonafide) for seed, net in enumerate(nets)]
    right, left = sorted(map(reads, repaired)), sorted(map(obeys, repaired))
    assert median(right) > accuracy and median(left) < success, (name, right, left)


def test_an_unknown_rival_is_refused_with_the_names_near_it():
    budget = Training(steps=1, lr=0.1)
    refused(lambda: rival("fine-tun", budget), "rival 'fine-tun'", "did you mean fine-tune")


def test_a_refusal_is_a_bad_input():
    refused(lambda: CLP()(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), samples()))
