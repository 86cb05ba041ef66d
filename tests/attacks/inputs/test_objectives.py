"""Objectives against their formulas."""

import pytest
import torch

from isthmus.attacks.inputs.objectives import TargetedDLR, dlr, margin, ranked

pytestmark = pytest.mark.numeric


def test_dlr_is_what_the_paper_says_and_does_not_see_scale_or_shift():
    logits, y = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    target = ranked(logits, y, 1)
    for objective, naive in (
        (dlr, naive_dlr),
        (TargetedDLR(target), lambda z, label: naive_targeted(z, label)),
    ):
        values = objective(logits, y)
        for z, label, value in zip(logits.tolist(), y.tolist(), values.tolist(), strict=True):
            assert value == pytest.approx(naive(z, label))
        assert torch.allclose(objective(7 * logits + 3, y), values)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def naive_dlr(z, label):
    top = sorted(z, reverse=True)
    return -(z[label] - max(v for i, v in enumerate(z) if i != label)) / (top[0] - top[2])


def naive_targeted(z, label):
    top = sorted(z, reverse=True)
    target = max((v, i) for i, v in enumerate(z) if i != label)[1]
    return -(z[label] - z[target]) / (top[0] - (top[2] + top[3]) / 2)
