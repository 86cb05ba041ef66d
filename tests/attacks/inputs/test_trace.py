"""A gradient that is zero is said in one line; one that is missing is refused."""

import warnings

import pytest
import torch
from support.attacked import right
from support.networks import network
from torch import nn

from isthmus.attacks import (
    APGD,
    FAB,
    MIFGSM,
    MSD,
    PGD,
    Square,
    WorstOf,
    ZeroGradients,
    auto_attack,
    fgsm,
    recorded,
)
from isthmus.data import Linf

BALL = Linf(0.15)


class Rounded(nn.Module):
    """A network that sees its input in 8 bits: the gradient of rounding is zero everywhere."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.net, self.share = network("batchnorm").eval(), share

    def forward(self, x):
        coarse = (x * 255).round() / 255
        rounded = torch.arange(len(x)) < self.share * len(x)
        return self.net(torch.where(rounded[:, None, None, None], coarse, x))


CLIMBING = {
    "fgsm": fgsm(BALL),
    "PGD": PGD(BALL, steps=3),
    "PGD, worst": PGD(BALL, steps=3, returns="worst"),
    "MIFGSM": MIFGSM(BALL, steps=3),
    "MSD": MSD([BALL], steps=3),
    "APGD": APGD(BALL, "ce", steps=5),
    "FAB": FAB(BALL, steps=2, targets=2),
    "WorstOf": WorstOf([PGD(BALL, steps=2), APGD(BALL, "dlr", steps=3)]),
}


@pytest.mark.parametrize("attack", CLIMBING.values(), ids=CLIMBING)
def test_gradients_that_are_all_zero_are_said_in_one_line_with_the_way_out(attack, samples):
    with pytest.warns(ZeroGradients, match=r"zero for all .* Square") as caught:
        attack(Rounded(), *samples)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


@pytest.mark.parametrize("attack", CLIMBING.values(), ids=CLIMBING)
def test_an_ordinary_network_is_not_spoken_of(attack, samples):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(network("batchnorm"), *samples)


def test_the_way_out_is_one(samples):
    x, y = samples
    net = Rounded()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = Square(BALL, queries=150)(net, x, y)
    assert right(net, moved, y).sum() < len(y) / 2


def test_auto_attack_holds_its_own_way_out_and_says_nothing(samples):
    attack = auto_attack(BALL)
    cheap = WorstOf([PGD(BALL, steps=2), attack.attacks[-1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cheap(Rounded(), *samples)


def test_a_reader_gets_counts_in_place_of_warnings_and_so_does_the_one_around_it(samples):
    x, y = samples
    with warnings.catch_warnings(), recorded() as outer:
        warnings.simplefilter("error")
        with recorded() as inner:
            PGD(BALL, steps=2)(Rounded(), x, y)
        PGD(BALL, steps=2)(Rounded(), x[:10], y[:10])
    assert (inner.samples, inner.blind) == (24, 24)
    assert (outer.samples, outer.blind) == (34, 34)
    assert outer.warning == inner.warning and "zero for all" in inner.warning


@pytest.mark.parametrize(("share", "said"), [(0.4, False), (0.6, True)])
def test_zero_for_most_samples_is_as_telling_as_zero_for_all(share, said, samples):
    x, y = samples
    with recorded() as trace:
        PGD(Linf(1e-4), steps=1)(Rounded(share), x, y)
    assert trace.samples == 24 and trace.blind == int(24 * share + 0.999)
    assert ("zero for most" in (trace.warning or "")) == said
