"""Noise and averages against their definitions."""

import pytest
import torch
from support.refusals import refused
from support.victims import TRAINING, samples, victim

from isthmus.defenses import FineTune, GaussianNoise, StraightAverage


@pytest.mark.parametrize("variant, center, share", [("between", 0.5, 0.5), ("around", 0.0, 1.0)])
def test_noise_has_the_mean_and_deviation_of_its_definition(variant, center, share):
    """Law 20: over many draws, elementwise."""
    a, b = victim(0), victim(1)
    draws = torch.stack(
        [GaussianNoise(b, variant, seed=s)(a, samples())[0].weight.flatten() for s in range(400)]
    )
    w1, w2 = a[0].weight.flatten(), b[0].weight.flatten()
    sigma = share * (w2 - w1).abs()
    assert ((draws.mean(0) - torch.lerp(w1, w2, center)).abs() < 4.5 * sigma / 20 + 1e-6).all()
    assert ((draws.std(0) / sigma - 1).abs() < 0.2).all()


def test_the_average_is_the_average():
    a, b = victim(0), victim(1)
    assert torch.allclose(
        StraightAverage(b)(a, samples())[3].weight, (a[3].weight + b[3].weight) / 2
    )


def test_an_unknown_variant_is_refused():
    refused(lambda: GaussianNoise(victim(1), "beside")(victim(0), samples()), "beside")


def test_the_other_end_may_be_made_by_a_defense():
    tuned = FineTune(TRAINING)
    made, given = GaussianNoise(tuned), GaussianNoise(tuned(victim(0), samples()))
    one, two = (defense(victim(0), samples()).state_dict() for defense in (made, given))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert torch.equal(
        StraightAverage(tuned, t=1.0)(victim(0), samples())[0].weight,
        tuned(victim(0), samples())[0].weight,
    )
