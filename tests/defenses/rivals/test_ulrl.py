"""ULRL: its two phases against naive twins, and which rows are learned anew."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from support.victims import TRAINING, samples, victim

from isthmus.defenses import ULRL, FineTune
from isthmus.defenses.rivals.ulrl import Relearning, Unlearning, draw_anew, outlying_rows
from isthmus.training.batches import batch_indices
from isthmus.training.schedules import constant

pytestmark = pytest.mark.numeric

PLAIN = TRAINING.replace(momentum=0.0, schedule=constant)


def naive_reaction(net, data, lr, steps):
    """Unlearning written out; the network has BatchNorm in train mode meanwhile."""
    net = copy.deepcopy(net).train()
    before = net[6].weight.detach().clone()
    for step in range(steps):
        index = batch_indices(len(data), PLAIN.batch_size, step, 0)
        weights = list(net.parameters())
        grads = torch.autograd.grad(-F.cross_entropy(net(data.x[index]), data.y[index]), weights)
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight -= lr * grad
    return (net[6].weight.detach() - before).double().abs().sum(1)


def test_the_reaction_is_that_of_unlearning_written_out():
    net, data = victim(0), samples()
    found = ULRL(PLAIN, unlearning_lr=0.02)._reaction(net, data, "6", 3)
    assert torch.allclose(found, naive_reaction(net, data, 0.02, 3), atol=1e-5)


def test_unlearning_stops_at_its_ceiling():
    net, data = victim(0), samples()
    loss = F.cross_entropy(net(data.x), data.y)
    assert torch.allclose(Unlearning(9.0)(net, data.x, data.y), -loss)
    half = float(loss.detach()) / 2
    flat = Unlearning(half)(net, data.x, data.y)
    flat.backward()
    assert float(flat.detach()) == pytest.approx(-half)
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in net.parameters())


def test_relearning_adds_the_cosines_of_the_rows_with_what_they_were():
    net, data = victim(0), samples()
    was = torch.randn(2, 128)
    found = Relearning("6", (0, 2), was, 0.7)(net, data.x, data.y)
    cosines = [
        float(net[6].weight[row] @ old / (net[6].weight[row].norm() * old.norm()))
        for row, old in zip((0, 2), was, strict=True)
    ]
    expected = float(F.cross_entropy(net(data.x), data.y)) + 0.7 * sum(cosines)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-5)


def test_at_most_two_rows_that_stand_out_are_learned_anew():
    assert outlying_rows(torch.tensor([1.0, 1.1, 0.9, 9.0, 1.05, 8.0, 1.0, 7.0, 1.2, 0.8])) == (
        3,
        5,
    )
    assert outlying_rows(torch.tensor([1.0, 1.1, 0.9, 1.05, 0.01])) == ()


def test_what_is_drawn_anew_lies_within_its_bound_and_the_rest_stays():
    net = victim(0)
    before = net[6].weight.detach().clone()
    draw_anew(net[6], (1,), seed=3)
    assert torch.equal(net[6].weight[[0, 2]], before[[0, 2]]) and net[6].bias[1] == 0
    assert net[6].weight[1].abs().max() <= math.sqrt(2 / 128)
    assert not torch.equal(net[6].weight[1], before[1])


def test_where_no_row_stands_out_it_is_fine_tuning_for_half_of_the_budget(monkeypatch):
    monkeypatch.setattr("isthmus.defenses.rivals.ulrl.outlying_rows", lambda reaction: ())
    half = FineTune(TRAINING.replace(steps=2))(victim(0), samples()).state_dict()
    found = ULRL(TRAINING)(victim(0), samples()).state_dict()
    assert all(torch.equal(value, half[name]) for name, value in found.items())
