"""Curves between two networks, and the point on one as a defense."""

import pytest
import torch
from support.backdoored import FAST
from support.networks import data, network
from support.refusals import refused

from isthmus import Linf, adversarial, connect, repair
from isthmus.attacks import PGD
from isthmus.curves import CURVE_TRAINING, network_at
from isthmus.defenses import OnCurve, PerturbedCopy, default_endpoint


def test_training_in_an_interval_of_t_only(tampered, samples):
    curve, history = connect(*tampered, samples[0], low=0.4, high=0.6, **{**FAST, "steps": 5})
    assert history.steps == 5 and curve.bends.isfinite().all()


def test_a_point_on_the_curve_is_that_of_the_curve(tampered, samples):
    """All samples train, nothing is held out; the budget counts gradients."""
    training = CURVE_TRAINING.replace(**{**FAST, "steps": 6})
    defense = OnCurve(training.replace(steps=12), t=0.3, other=tampered[1])
    made = defense(tampered[0], samples[0])
    curve, _ = connect(tampered[0], tampered[1], samples[0], training=training)
    expected = network_at(curve, 0.3, samples[0]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize(
    "asked", [{"loss": adversarial(PGD(Linf(0.1), steps=1))}, {"after_step": print}]
)
def test_nothing_is_asked_of_a_path_that_is_not_trained(asked, tampered, samples):
    refused(lambda: connect(*tampered, samples[0], bends=0, **asked), "straight path", "bends=1")
    refused(
        lambda: repair(tampered[0], samples[0], tampered[1], bends=0, **asked),
        "straight path",
        "bends=1",
    )


@pytest.mark.parametrize("other", [None, PerturbedCopy(0.5)])
def test_a_point_on_the_curve_to_what_is_made(other, tampered, samples):
    training = CURVE_TRAINING.replace(**{**FAST, "steps": 2})
    made = OnCurve(training.replace(steps=4), t=1.0, other=other)(tampered[0], samples[0])
    end = (
        other(tampered[0], samples[0])
        if other
        else default_endpoint(tampered[0], samples[0], training).network
    )
    assert all(
        torch.equal(p, dict(end.named_parameters())[name]) for name, p in made.named_parameters()
    )


@pytest.mark.parametrize(
    "kind, source, spent", [("batchnorm", "permuted copy", 0), ("lstm", "fine-tuned copy", 3)]
)
def test_a_second_endpoint_says_what_it_took(kind, source, spent):
    end = default_endpoint(network(kind), data(40), CURVE_TRAINING.replace(steps=3))
    assert end.source.startswith(source) and end.gradients == spent
