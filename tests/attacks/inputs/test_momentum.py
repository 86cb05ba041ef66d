"""MI-FGSM: a naive twin, and that its momentum stays with its sample when others leave."""

import torch
import torch.nn.functional as F
from support.attacked import answered, loss_of
from support.networks import network
from support.refusals import refused

from isthmus.attacks import MIFGSM
from isthmus.data import Linf


def naive(net, x, y, eps, steps, decay):
    """One sample, as Algorithm 1 is written (with the l1 norm in place of the mean)."""
    point, momentum = x.clone(), torch.zeros_like(x)
    best, worst = x.clone(), float(loss_of(net, x, y))
    for _ in range(steps):
        free = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(free), y), free)
        momentum = decay * momentum + gradient / gradient.abs().sum()
        point = (point + eps / steps * momentum.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        value = float(loss_of(net, point, y))
        if value > worst:
            best, worst = point, value
        if net(point).argmax(1) != y:
            return point
    return best


def test_each_sample_goes_the_way_of_the_paper_whoever_leaves_the_batch():
    net, some = network("batchnorm").double(), answered()
    x, y = some.floats().double(), some.y
    moved = MIFGSM(Linf(0.06), steps=6, decay=0.8)(net, x, y)
    fooled = net(moved).argmax(1) != y
    assert 0 < fooled.sum() < len(y), "some leave the batch, some stay"
    for i in range(len(x)):
        one = naive(net, x[i : i + 1], y[i : i + 1], 0.06, 6, 0.8)
        torch.testing.assert_close(moved[i : i + 1], one, atol=1e-9, rtol=0)


def test_a_decay_below_zero_is_refused():
    refused(lambda: MIFGSM(Linf(0.1), decay=-0.5), "decay = -0.5")
