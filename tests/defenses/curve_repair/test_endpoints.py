import copy

import pytest
import torch
from support.networks import ZOO, data, network
from support.refusals import refused

from isthmus.defenses import PermutedCopy, PerturbedCopy
from isthmus.defenses.curve_repair.endpoints import default_endpoint
from isthmus.models.forward import outputs
from isthmus.training.budget import Training


@pytest.mark.parametrize("how", ["random", "least correlated"])
def test_a_permuted_copy_computes_the_same_far_away(how):
    net, samples = network("batchnorm"), data(32)
    other = PermutedCopy(how, seed=3)(net, samples)
    torch.testing.assert_close(
        outputs(other, samples.x), outputs(net, samples.x), rtol=1e-4, atol=1e-4
    )
    moved = [
        ((a - b).norm() / a.norm()).item()
        for a, b in zip(net.parameters(), other.parameters(), strict=True)
    ]
    assert max(moved) > 0.5


def test_another_seed_is_another_permutation():
    net, samples = network("batchnorm"), data(32)
    one, two = (PermutedCopy("random", seed)(net, samples).state_dict() for seed in (0, 1))
    assert any(not torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", ["batchnorm", "attention", "tied", "frozen", "groupnorm"])
def test_a_perturbed_copy_is_away_by_the_scale_and_frozen_weights_stay(kind):
    net, samples = network(kind), data(32)
    before = copy.deepcopy(net.state_dict())
    other = PerturbedCopy(0.5)(net, samples)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part.training for part in other.modules())
    moved = {name: p.detach() for name, p in other.named_parameters()}
    for name, p in net.named_parameters():
        away = (moved[name] - p.detach()).square().mean().sqrt() / p.detach().square().mean().sqrt()
        assert p.requires_grad == bool(away > 0)
        if p.requires_grad and p.numel() > 200:
            assert float(away) == pytest.approx(0.5, rel=0.2)


def test_every_network_of_the_zoo_gets_a_copy_or_a_reason():
    for kind in ZOO:
        assert PerturbedCopy()(network(kind), data(32)) is not None


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_of_nothing_is_refused(scale):
    refused(lambda: PerturbedCopy(scale)(network("linear"), data(8)), "scale")


def test_a_network_with_frozen_statistics_gets_a_fine_tuned_copy():
    net, samples = network("batchnorm"), data(32)
    training = Training(steps=2, lr=0.1)
    assert default_endpoint(net, samples, training).source == "permuted copy"
    frozen = copy.deepcopy(net)
    train = frozen.train

    def without_batchnorm(mode=True):
        train(mode)
        for part in frozen.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()
        return frozen

    frozen.train = without_batchnorm
    endpoint = default_endpoint(frozen, samples, training)
    assert endpoint.source.startswith("fine-tuned copy, because")
    assert "frozen BatchNorm statistics" in endpoint.source
    assert endpoint.gradients == 2
