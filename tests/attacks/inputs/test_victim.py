"""The network under attack: points of a curve, BatchNorm, precision, and what is refused."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.attacked import right, two_classes
from support.networks import network, pair
from support.refusals import refused
from torch import nn

from isthmus import Bezier
from isthmus.attacks import APGD, FAB, MSD, PGD, NoiseFGSM, Square, WorstOf
from isthmus.cli.words import parse_attack, parse_balls, parse_loss
from isthmus.data import L1, Linf
from isthmus.training import cross_entropy, trades


@pytest.mark.parametrize(
    "attack", [PGD(Linf(0.1), 2), PGD(Linf(0.1), 2, batch_statistics=True, returns="last")]
)
def test_the_network_is_left_as_it_was_when_the_attack_breaks_off(attack, samples):
    net = network("batchnorm").train()
    with pytest.raises(RuntimeError):
        attack(net, samples[0][:, :1], samples[1])
    assert all(p.requires_grad for p in net.parameters()) and all(
        part.training for part in net.modules()
    )
    assert net[1].track_running_stats


def test_a_live_point_is_attacked_where_it_stands(samples):
    curve = Bezier(*pair("batchnorm"))
    x, y = samples
    point = curve.at(0.3)
    y = point.eval()(x).argmax(1)
    attack = PGD(Linf(0.1), steps=3, random_start=False, returns="worst")
    exported = attack(curve.export(0.3), x, y)
    assert torch.allclose(attack(point, x, y), exported, atol=1e-6)
    assert not torch.equal(attack(curve.export(0.9), x, y), exported)
    assert curve.bends.grad is None and curve.bends.requires_grad
    cross_entropy(point, x, y).backward()  # the graph of the weights is still whole
    assert curve.bends.grad.abs().sum() > 0


def test_batch_statistics_are_those_of_training_and_move_no_buffer(samples):
    net, (x, y) = network("batchnorm").train(), samples
    net[7].eval()  # dropout, else chance is in it
    net[5].eval()  # a layer that training leaves alone keeps its running statistics
    before = copy.deepcopy(net.state_dict())
    attack = PGD(
        Linf(0.05), steps=1, step=0.05, random_start=False, returns="last", batch_statistics=True
    )
    moved = attack(net, x, y)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    free = x.clone().requires_grad_()
    F.cross_entropy(net(free), y).backward()
    assert torch.equal(moved, (x + 0.05 * free.grad.sign()).clamp(0, 1))
    assert not torch.equal(moved, replace(attack, batch_statistics=False)(net, x, y))


def test_attacks_run_in_bf16_when_asked(net, samples):
    kinds = []
    hook = net[0].register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    moved = PGD(Linf(0.1), steps=3, precision="bf16")(net, *samples)
    hook.remove()
    assert set(kinds) == {torch.bfloat16} and moved.dtype == torch.float32
    assert right(net, moved, samples[1]).sum() < right(net, *samples).sum()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGD(Linf(0.1), steps=0), ["steps = 0"]),
        (lambda: PGD(Linf(0.1), step=-1.0), ["step = -1"]),
        (lambda: PGD(Linf(0.1), returns="best"), ["best"]),
        (lambda: PGD(Linf(0.1), returns="last", restarts=2), ["restarts"]),
        (lambda: PGD(Linf(0.1), batch_statistics=True), ["batch"]),
        (lambda: APGD(L1(1.0)), ["L1"]),
        (lambda: FAB(L1(1.0)), ["L1"]),
        (lambda: Square(L1(1.0)), ["L1"]),
        (lambda: APGD(Linf(0.1), "cw"), ["cw"]),
        (lambda: Square(Linf(0.1), p=0.0), ["p = 0"]),
        (lambda: WorstOf([]), ["no attacks"]),
        (lambda: MSD([]), ["no balls"]),
        (lambda: NoiseFGSM(Linf(0.1), noise=-1.0), ["noise = -1"]),
        (lambda: parse_attack("pgd", [Linf(0.1)], steps=0), ["steps = 0"]),
        (lambda: parse_attack("fgsm", [Linf(0.1)], restarts=2), ["restarts", "fgsm"]),
        (lambda: parse_attack("autoattack", [L1(1.0)]), ["L1"]),
        (lambda: parse_balls("linf", "8", (3, 8, 8)), ["eps = 8", "8/255"]),
        (lambda: parse_balls("l1", "192", (3, 8, 8)), ["eps = 192", "every image"]),
        (lambda: parse_balls("linf", "0", (3, 8, 8)), ["eps = 0"]),
        (lambda: parse_balls("linf", "-1/255", (3, 8, 8)), ["eps = -"]),
        (lambda: parse_balls("linf", "1/0", (3, 8, 8)), ["1/0"]),
        (lambda: parse_balls("linf,l2", "0.1", (3, 8, 8)), ["1 radii"]),
        (lambda: parse_balls("l3", None, (3, 8, 8)), ["l3"]),
        (lambda: parse_loss("fast", [Linf(0.1)], steps=3), ["fast"]),
        (lambda: parse_loss("adversarial", [Linf(0.1)], beta=3.0), ["beta"]),
        (lambda: trades(PGD(Linf(0.1)), beta=-1), ["beta"]),
        (
            lambda: PGD(Linf(0.1))(
                network("linear"), torch.rand(2, 3, 8, 8) * 3, torch.zeros(2).long()
            ),
            ["[0, 1]"],
        ),
        (
            lambda: PGD(Linf(0.1))(
                network("linear"), torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2).long()
            ),
            ["uint8"],
        ),
        (
            lambda: PGD(Linf(0.1))(
                nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8), torch.zeros(2).long()
            ),
            ["classifier"],
        ),
        (
            lambda: APGD(Linf(0.1), "dlr")(
                two_classes()[0], torch.rand(2, 1, 4, 4).double(), torch.zeros(2).long()
            ),
            ["2 classes"],
        ),
    ],
)
def test_bad_input_is_refused(make, words):
    refused(make, *words)
