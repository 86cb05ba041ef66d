"""Adversarial training: what it lowers, what it costs, and that attack and loss share t."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.attacked import answered
from support.networks import data, network, pair

from isthmus import Bezier, expected_over_t, fit, load_data
from isthmus.attacks import (
    PGD,
    NoiseFGSM,
)
from isthmus.cli.words import parse_balls, parse_loss
from isthmus.data import Linf
from isthmus.metrics import RobustLoss
from isthmus.models import mlp
from isthmus.training import adversarial, cross_entropy, trades
from isthmus.training.schedules import constant

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def samples():
    some = answered()
    return some.x, some.y


def digits():
    whole = load_data("digits")
    return whole[:400]


def test_adversarial_training_lowers_the_robust_loss():
    some, attack = digits(), PGD(Linf(0.1), steps=5, returns="worst")
    torch.manual_seed(0)
    start = mlp(channels=1, size=8, hidden=(32,))
    found = {}
    for name, loss in {
        "clean": cross_entropy,
        "adversarial": adversarial(PGD(Linf(0.1), steps=3)),
        "trades": trades(PGD(Linf(0.1), steps=3)),
        "fast": adversarial(NoiseFGSM(Linf(0.1))),
    }.items():
        net = copy.deepcopy(start)
        fit(
            net,
            some,
            loss,
            steps=120,
            lr=0.1,
            batch_size=64,
            schedule=constant,
            precision="fp32",
            device="cpu",
        )
        found[name] = RobustLoss(some, attack)(net)
    assert max(found[name] for name in ("adversarial", "trades", "fast")) < 0.8 * found["clean"], (
        found
    )


def test_a_robust_path_lowers_the_robust_loss_at_the_middle():
    """The inner maximum is taken at the same t as the outer loss."""
    some, attack = digits(), PGD(Linf(0.1), steps=5, returns="worst")
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ends.append(mlp(channels=1, size=8, hidden=(24,)))
        fit(ends[-1], some, steps=80, lr=0.1, batch_size=64, precision="fp32", device="cpu")
    found = []
    for loss in (cross_entropy, adversarial(PGD(Linf(0.1), steps=3))):
        curve = Bezier(*ends)
        fit(
            curve,
            some,
            expected_over_t(loss),
            steps=120,
            lr=0.1,
            batch_size=64,
            precision="fp32",
            device="cpu",
        )
        found.append(RobustLoss(some, attack)(curve.export(0.5)))
    assert found[1] < 0.8 * found[0]


@pytest.mark.parametrize("kind", ["batchnorm", "dropout"])
def test_the_attack_and_the_loss_share_t(kind, samples):
    curve, seen = Bezier(*pair(kind)), []

    def attack(model, x, y):
        seen.append(model.theta)
        return x

    def loss(model, x, y):
        seen.append(model.theta)
        return cross_entropy(model, x, y)

    expected_over_t(adversarial(attack, loss))(curve, *samples)
    assert seen[0] is seen[1]


def test_training_attacks_move_buffers_once_a_step_and_draw_afresh(samples):
    net, (x, y) = network("batchnorm").train(), samples
    loss = adversarial(PGD(Linf(0.1), steps=3))
    before = int(net[1].num_batches_tracked)
    loss(net, x, y)
    assert int(net[1].num_batches_tracked) == before + 1
    attack = loss.attack
    assert not torch.equal(attack(net, x, y), attack(net, x, y)), "two steps, two starts"
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(attack(net, x, y))
    assert torch.equal(*states), "from the global generator, which fit seeds"


def test_trades_has_the_value_and_gradient_of_its_definition(samples):
    net, (x, y) = network("groupnorm"), samples
    start = (x + 0.01).clamp(0, 1)
    loss = trades(lambda model, x, y: start, beta=2.0)
    value = loss(net, x, y)
    p, q = net(x).softmax(1), net(start).softmax(1)
    naive = F.cross_entropy(net(x), y) + 2.0 * (p * (p / q).log()).sum(1).mean()
    assert value.item() == pytest.approx(naive.item(), rel=1e-4)
    grads = [
        torch.autograd.grad(v, list(net.parameters()), allow_unused=True) for v in (value, naive)
    ]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*grads, strict=True))
    moved = PGD(Linf(0.1), steps=3, returns="worst")(net, x, net(x).softmax(1).detach())
    kl = F.kl_div(net(moved).log_softmax(1), net(x).softmax(1), reduction="none").sum(1)
    assert kl.mean() > 0.01, "from the clean outputs as labels PGD climbs the divergence"


def test_adversarial_training_in_bf16_still_trains(samples):
    """Weights cast while frozen must not be reused by the training pass."""
    net = network("batchnorm").train()
    with torch.autocast("cpu", torch.bfloat16):
        value = adversarial(PGD(Linf(0.05), steps=2))(net, *samples)
    value.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for n, p in net.named_parameters()
        if n != "0.bias"
    )


@pytest.mark.parametrize("name", ["adversarial", "trades", "fast"])
def test_a_path_robust_to_several_norms_is_one_line(name):
    curve, balls = Bezier(*pair("batchnorm")), parse_balls("linf,l2,l1", "0.1,0.5,2", (3, 8, 8))
    loss = parse_loss(name, balls, steps=None if name == "fast" else 2)
    assert fit(curve, data(), expected_over_t(loss), steps=10, lr=0.1, precision="fp32").steps == 10
