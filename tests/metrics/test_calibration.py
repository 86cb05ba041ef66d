"""Calibration against its definition, and the networks for which it is known."""

import pytest
import torch
from support.networks import data, network
from support.refusals import refused
from torch import nn

from isthmus import Data
from isthmus.metrics import Accuracy, CalibrationError, Confidence, logits


class Says(nn.Module):
    """Answers class 0 with the probability that is written in the first pixel."""

    def forward(self, x):
        p = x[:, 0, 0, 0].double().clamp(1e-6, 1 - 1e-6)
        return torch.stack([p.logit(), torch.zeros_like(p)], 1)


def said(confidences, right):
    x = torch.tensor(confidences, dtype=torch.float64).view(-1, 1, 1, 1)
    return Data(x, torch.tensor(right).logical_not().long(), 2)


def naive(probabilities, labels, bins):
    """The definition, sample by sample and bin by bin."""
    total = 0.0
    for b in range(bins):
        gaps = []
        for p, y in zip(probabilities, labels, strict=True):
            sure = max(p)
            if b / bins <= sure < (b + 1) / bins or (b == bins - 1 and sure >= 1):
                gaps.append(sure - (p.index(sure) == y))
        total += abs(sum(gaps))
    return total / len(labels)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_error_is_that_of_its_definition(bins):
    samples, net = data(80), network("batchnorm")
    probabilities = logits(net, samples).double().softmax(1).tolist()
    error = CalibrationError(samples, bins)(net)
    assert error == pytest.approx(naive(probabilities, samples.y.tolist(), bins), abs=1e-12)
    assert error.n == 80 and error.unit == "share" and error.low <= error <= error.high


def test_with_one_bin_it_is_the_distance_of_confidence_from_accuracy():
    samples, net = data(80), network("batchnorm")
    gap = abs(Confidence(samples)(net) - Accuracy(samples)(net))
    assert CalibrationError(samples, 1)(net) == pytest.approx(gap)


def test_a_network_that_is_as_sure_as_it_is_right_has_no_error_and_a_boaster_its_boast():
    sure = [0.9] * 10 + [0.6] * 10
    honest = said(sure, [True] * 9 + [False] + [True] * 6 + [False] * 4)
    assert CalibrationError(honest)(Says()) == pytest.approx(0, abs=1e-6)
    assert Confidence(honest)(Says()) == pytest.approx(Accuracy(honest)(Says()))
    wrong = said([0.9] * 10, [False] * 10)
    assert CalibrationError(wrong)(Says()) == pytest.approx(0.9, abs=1e-6)


def test_errors_of_two_bins_do_not_cancel():
    """Overconfident in one bin and underconfident in another, on average exactly right."""
    samples = said([0.9] * 10 + [0.6] * 10, [True] * 6 + [False] * 4 + [True] * 9 + [False])
    assert Confidence(samples)(Says()) == pytest.approx(Accuracy(samples)(Says()))
    assert CalibrationError(samples)(Says()) == pytest.approx(0.3, abs=1e-6)


def test_the_interval_covers_what_many_samples_show():
    """Of confidence 0.9 and accuracy 0.7, which few samples know within their interval."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        right = (torch.rand(100, generator=generator) < 0.7).tolist()
        error = CalibrationError(said([0.9] * 100, right))(Says())
        covered += error.low <= 0.2 <= error.high
    assert 180 <= covered <= 199  # 95 % of 200, give or take four standard deviations


def test_no_bins_are_refused():
    refused(lambda: CalibrationError(data(8), 0), "0 bins")
