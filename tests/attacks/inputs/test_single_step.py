"""Single steps from noise, against the formula of their paper."""

import torch
import torch.nn.functional as F
from support.attacked import Counting

from isthmus.attacks import NoiseFGSM
from isthmus.data import Linf
from isthmus.training import adversarial


def test_a_single_step_from_noise_is_what_its_paper_says(net, samples):
    """delta = eta + eps sign(gradient at x + eta), not projected onto the ball, which it leaves."""
    x, y = samples
    moved = NoiseFGSM(Linf(0.05))(net, x, y)
    noise = Linf(0.1).sample(x.shape, torch.Generator().manual_seed(0))
    start = (x + noise).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(start), y, reduction="sum"), start)
    assert torch.equal(moved, (start + 0.05 * gradient.sign()).clamp(0, 1))
    assert Linf(0.15).contains(moved - x).all() and not Linf(0.05).contains(moved - x).any()
    assert torch.equal(NoiseFGSM(Linf(0.0))(net, x, y), x)


def test_a_single_step_is_one_forward_and_one_backward_pass(net, samples):
    loss = adversarial(NoiseFGSM(Linf(0.05)))
    with Counting() as count:
        loss.attack(net.train(), *samples)
    assert count.samples == [24] and count.backward == 2 and count.weights == 0
    assert not torch.equal(loss.attack(net, *samples), loss.attack(net, *samples)), (
        "two steps, two draws"
    )
