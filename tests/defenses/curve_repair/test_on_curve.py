"""A curve as a defense: it spends what it declares, whatever second endpoint the network allows."""

from functools import lru_cache

import pytest
from support.networks import data, network
from support.refusals import refused
from torch import nn

from isthmus import fit
from isthmus.curves import Route
from isthmus.defenses import AlongPath, FineTune, OnCurve
from isthmus.models.view import copied
from isthmus.training import Training

NO_COPY = ("linear", "held")
"""Networks whose channels cannot be permuted, or whose BatchNorm statistics are frozen."""


class Held(nn.Sequential):
    """A network that keeps its BatchNorm layers in eval mode by itself."""

    def train(self, mode=True):
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.training = False
        return self


NETWORKS = (*NO_COPY, "batchnorm", "groupnorm")


@lru_cache
def trained(kind: str) -> nn.Module:
    """A network that is above chance on its samples, as a repair asks."""
    net = Held(*network("batchnorm")) if kind == "held" else network(kind)
    fit(net, data(), steps=150, lr=0.02, batch_size=16, precision="fp32", device="cpu")
    return net


def gradients_taken(defense, kind: str) -> int:
    """Run the defense and count the backward passes through its networks' logits."""
    net, passes = copied(trained(kind)), []

    def counting(_module, _inputs, logits):
        if logits.requires_grad:
            logits.register_hook(lambda _: passes.append(1))

    net.register_forward_hook(counting)
    defense(net, data())
    return len(passes)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("rho", [0.0, 2.0])
@pytest.mark.parametrize("defense", [OnCurve, AlongPath])
def test_it_takes_the_gradients_that_it_declares(defense, rho, kind):
    training = Training(steps=13, lr=0.01, batch_size=16, device="cpu", precision="fp32")
    asked = defense(training, route=Route(rho=rho))
    step = asked.route.cost + (kind in NO_COPY)  # a step of the curve, and one of the tuned copy
    assert gradients_taken(asked, kind) == 13 // step * step
    assert asked.gradients == 13


def test_what_is_given_comes_on_top():
    training = Training(steps=12, lr=0.01, batch_size=16, device="cpu", precision="fp32")
    defense = OnCurve(training, other=FineTune(training.replace(steps=5)))
    assert gradients_taken(defense, "linear") == defense.gradients == 17


def test_a_budget_for_the_curve_alone_is_refused_where_its_end_has_to_be_trained():
    training = Training(steps=2, lr=0.01, batch_size=16, device="cpu", precision="fp32")
    assert gradients_taken(OnCurve(training), "batchnorm") == 2
    refused(lambda: OnCurve(training)(trained("linear"), data()), "2 gradient", "3 or more")
