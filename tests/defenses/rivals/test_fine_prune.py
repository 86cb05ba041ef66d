"""Which channels fine-pruning prunes, and that they stay zero."""

import pytest
import torch
from support.refusals import refused
from support.victims import TRAINING, Odd, samples, victim
from torch import nn

from isthmus.defenses import FinePrune


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_pruning_by_norm_zeroes_the_smallest_filters_and_they_stay_zero(share):
    tampered = victim(0)
    pruned = FinePrune(TRAINING, share, by="norm")(tampered, samples())
    for old, new in zip(tampered, pruned, strict=True):
        if isinstance(old, nn.Conv2d):
            norms = old.weight.abs().flatten(1).sum(1)
            expected = set(norms.argsort()[: int(share * len(norms))].tolist())
            zero = (new.weight.flatten(1) == 0).all(1) & (new.bias == 0)
            assert set(zero.nonzero().flatten().tolist()) == expected


def test_pruning_by_dormancy_zeroes_the_channels_that_bonafide_samples_use_least():
    tampered = victim(0)
    with torch.no_grad():
        activity = tampered[:4](samples().x).abs().mean((0, 2, 3))
    pruned = FinePrune(TRAINING, 0.5, by="dormancy")(tampered, samples())
    zero = (pruned[3].weight.flatten(1) == 0).all(1)
    assert set(zero.nonzero().flatten().tolist()) == set(activity.argsort()[:4].tolist())
    assert not (pruned[0].weight.flatten(1) == 0).all(1).any(), (
        "only the last convolution is pruned"
    )


@pytest.mark.parametrize(
    "defense, network, says",
    [
        (FinePrune(TRAINING), Odd(), "convolutions"),
        (FinePrune(TRAINING, share=1.0), victim(0), "share"),
        (FinePrune(TRAINING, by="age"), victim(0), "age"),
    ],
)
def test_what_cannot_be_pruned_is_refused(defense, network, says):
    refused(lambda: defense(network, samples()), says)
