"""Attacks on random networks, through layers without a gradient, and over several sessions."""

import pytest
import torch
from support.attacked import CASES, answered
from support.networks import network
from support.refusals import refused
from torch import nn

from isthmus.attacks import BPDA, PGD, examine
from isthmus.attacks.inputs.health.straight_through import straight_through
from isthmus.attacks.inputs.victim import Victim, meet
from isthmus.data import Linf
from isthmus.metrics import Accuracy, Passes, RobustAccuracy, attacked


class Unlucky(nn.Module):
    """A network that now and then gives one sample of a pass another answer, with a sure face."""

    def __init__(self, share=0.03):
        super().__init__()
        self.net, self.share, self.passes = network("batchnorm"), share, 0

    def forward(self, x):
        self.passes += 1
        logits = self.net(x)
        wrong = (torch.rand(len(x), 1) < self.share).to(logits)
        return logits * (1 - 2 * wrong)


class Rounds(nn.Module):
    def forward(self, x):
        return (4 * x).round() / 4


def rounding():
    return nn.Sequential(Rounds(), network("batchnorm")).eval()


RANDOM = {
    name: case for name, case in CASES.items() if name not in ("NoiseFGSM", "WorstOf", "MSD, worst")
}


@pytest.mark.parametrize("name", RANDOM)
def test_every_attack_asks_a_random_network_several_times(name):
    case = RANDOM[name]
    ball = case.balls[0]
    tiny = tuple(type(b)(1e-6) for b in ball) if isinstance(ball, tuple) else type(ball)(1e-6)
    net, samples = Unlucky(), answered(6)
    moved = case.make(tiny)(net, samples.floats(), samples.y)
    assert net.passes > 40
    right = network("batchnorm")(moved).argmax(1) == samples.y
    assert bool(right.all()), "no sample is fooled by one unlucky pass"


def test_robust_accuracy_of_a_random_network_is_that_of_its_mean_logits():
    samples = answered(40)
    rate = RobustAccuracy(samples, PGD(Linf(1e-6), steps=3))(Unlucky())
    assert rate == 1 == Accuracy(samples)(network("batchnorm"))
    assert rate.health.draws == 100 and "random answers" in rate.health.fired
    assert not rate.health.trustworthy
    assert rate == RobustAccuracy(samples, PGD(Linf(1e-6), steps=3))(Unlucky())


def test_the_gradient_is_the_mean_over_draws():
    samples = answered(6)
    x, y = samples.floats(), samples.y

    def first(logits, y):
        return logits[:, 0]

    net = Unlucky()
    torch.manual_seed(0)
    _, gradient, _ = Victim(net, draws=5).gradient(x, y, first)
    torch.manual_seed(0)
    parts = [Victim(net).gradient(x, y, first)[1] for _ in range(5)]
    assert torch.allclose(gradient, torch.stack(parts).mean(0), atol=1e-6)
    assert meet(network("batchnorm"), x, None)[0].draws == 1


def test_a_named_layer_passes_the_gradient_on():
    net, samples = rounding(), answered(24)
    attack = PGD(Linf(0.1), steps=5)
    blind = RobustAccuracy(samples, attack)(net)
    through = RobustAccuracy(samples, BPDA(attack, ["0"]))(net)
    assert through.hits < blind.hits and "zero gradients" in blind.health.fired
    assert "zero gradients" not in through.health.fired
    x = samples.floats().requires_grad_()
    with straight_through(net, ["0"]):
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
    rounded = Rounds()(samples.floats()).requires_grad_()
    (expected,) = torch.autograd.grad(net[1](rounded).sum(), rounded)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert not torch.autograd.grad(net(x).sum(), x)[0].any(), "the hook is gone"


def test_a_layer_that_cannot_be_passed_through_is_refused():
    net, samples = rounding(), answered(4)
    data = samples.floats(), samples.y
    refused(lambda: BPDA(PGD(Linf(0.1)), []), "no layers")
    refused(lambda: BPDA(PGD(Linf(0.1)), ["front"])(net, *data), "'front'", "named_modules")
    refused(lambda: BPDA(PGD(Linf(0.1)), ["1.0"])(net, *data), "Conv2d", "shape")


class Killed(Exception):
    pass


def test_a_killed_attack_goes_on_to_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.metrics.passes.pass_size", lambda *_, **__: 10)
    net, samples = network("batchnorm"), answered(40)
    attack = CASES["auto_attack"].make(Linf(0.02))
    question = RobustAccuracy(samples, attack, examine=examine)
    whole = question.answer(Passes(net))
    batches = []

    class Dying(type(attack)):
        def __call__(self, model, x, y):
            batches.append(len(x))
            if len(batches) == 3:
                raise Killed
            return super().__call__(model, x, y)

    dying = Dying(attack.attacks)
    object.__setattr__(dying, "run_identity", "one attack")
    asked = RobustAccuracy(samples, dying, examine=examine)
    with pytest.raises(Killed):
        asked.answer(Passes(net, folder=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    rate = asked.answer(Passes(net, folder=tmp_path))
    assert batches == [10] * 5 and rate == whole
    assert rate.health.record["indicators"] == whole.health.record["indicators"]
    again = attacked(net, samples, dying, folder=tmp_path)
    assert len(batches) == 5 and torch.equal(again.x, attacked(net, samples, attack).x)


def test_stored_batches_are_of_one_network_data_and_attack(tmp_path):
    samples, attack = answered(8), PGD(Linf(0.05), steps=2)
    for kind in ("batchnorm", "layernorm"):
        attacked(network(kind), samples, attack, folder=tmp_path)
    attacked(network("batchnorm"), samples[:4], attack, folder=tmp_path)
    attacked(network("batchnorm"), samples, PGD(Linf(0.05), steps=3), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    unseeded = PGD(Linf(0.05), seed=None)
    refused(
        lambda: attacked(network("batchnorm"), samples, unseeded, folder=tmp_path), "without a seed"
    )
