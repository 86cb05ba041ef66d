"""TAC: the smallest change against a general solver, and what is trained against it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from support.refusals import refused
from support.victims import TRAINING, samples, victim
from torch import nn

from isthmus import Data
from isthmus.defenses import TAC
from isthmus.defenses.rivals.head import features_of, head_of
from isthmus.defenses.rivals.tac import MovedFeatures, least_change, reconstructed

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("seed", range(6))
def test_the_smallest_change_is_that_of_a_general_solver(seed):
    rng = np.random.default_rng(seed)
    rows, least = rng.normal(size=(4, 7)), rng.normal(size=4)
    found = least_change(torch.from_numpy(rows), torch.from_numpy(least)).numpy()
    limits = {"type": "ineq", "fun": lambda s: rows @ s - least, "jac": lambda s: rows}
    twin = minimize(
        lambda s: s @ s, np.zeros(7), jac=lambda s: 2 * s, constraints=limits, tol=1e-14
    )
    assert (rows @ found - least).min() > -1e-9
    np.testing.assert_allclose(found, twin.x, atol=1e-6)


def test_where_nothing_is_lacking_nothing_changes():
    assert least_change(torch.eye(3).double(), -torch.ones(3).double()).abs().max() == 0


def test_every_sample_gets_its_largest_score_in_the_class():
    torch.manual_seed(0)
    head, features = nn.Linear(6, 5), torch.randn(40, 6, dtype=torch.float64)
    changes = reconstructed(head, features)
    for k, change in enumerate(changes):
        scores = (features + change) @ head.weight.detach().double().T + head.bias.detach().double()
        assert (scores.amax(1) - scores[:, k]).max() < 1e-8
        shorter = (features + 0.99 * change) @ head.weight.detach().double().T
        shorter = shorter + head.bias.detach().double()
        assert (shorter.amax(1) - shorter[:, k]).max() > 0 or change.norm() == 0


def test_a_class_that_a_small_change_reaches_has_the_smallest():
    """The backdoor's direction: one feature that raises class 2 far more than anything else."""
    head = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4))
        head.weight[2, 3] = 30.0
    features = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double()
    features[:, 3] = 0
    norms = [float(change.norm()) for change in reconstructed(head, features)]
    assert min(range(4), key=norms.__getitem__) == 2 and norms[2] < 0.2 * sorted(norms)[1]


def test_the_loss_is_cross_entropy_of_clean_and_of_moved_features():
    net, images = victim(0), samples()
    change = torch.randn(128, generator=torch.Generator().manual_seed(0)).double()
    found = MovedFeatures("6", change, 0.5)(net, images.x, images.y)
    features = net[:6](images.x)
    moved = net[6](features + change.float())
    expected = F.cross_entropy(net[6](features), images.y) + 0.5 * F.cross_entropy(moved, images.y)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not net[6]._forward_pre_hooks


def test_features_are_what_the_head_takes():
    net, images = victim(0), samples()
    assert head_of(net, images.x, 3) == "6"
    found = features_of(net, "6", images.x)
    assert torch.allclose(found, net[:6](images.x).double(), atol=1e-6)


def test_two_classes_and_a_network_without_a_head_are_refused():
    images = samples()
    two = Data(images.x, images.y % 2, 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    refused(lambda: TAC(TRAINING)(net, two), "2 classes")
    headless = nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten())
    refused(lambda: TAC(TRAINING)(headless, images), "linear layer")
