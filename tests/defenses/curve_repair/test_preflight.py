"""What a preflight sees in samples and networks that were spoiled on purpose."""

import warnings

import pytest
import torch
from support.networks import data, network
from torch import nn

from isthmus import Data, fit
from isthmus.data import Parts
from isthmus.defenses import repair
from isthmus.defenses.curve_repair.preflight import Recalibration, Samples, preflight
from isthmus.metrics import Rate
from isthmus.runs.notices import Notice


class Brightest(nn.Module):
    """Sure of the brighter quarter of an image of `networks.data`, and right about it."""

    def forward(self, x):
        return 1000 * nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1)


def seen(samples):
    return Samples.of(Brightest(), Parts.of(samples))


def texts(findings, *, concern):
    return [finding.text for finding in findings if finding.concern == concern]


def relabeled(samples, places, label):
    y = samples.y.clone()
    y[places] = label
    return Data(samples.x, y, samples.classes)


def test_good_samples_are_no_concern():
    found = seen(data(200))
    assert (found.fitted, found.held_out, found.copies, found.doubted) == (160, 40, 0, ())
    assert texts(found.findings(), concern=True) == []
    assert any("no label is doubted" in text for text in texts(found.findings(), concern=False))


def test_copies_across_the_split_are_counted_and_flatter():
    samples = data(200)
    parts = Parts.of(samples)
    twice = Data(
        torch.cat([samples.x, parts.held_out.x[:7]]),
        torch.cat([samples.y, parts.held_out.y[:7]]),
        4,
    )
    found = seen(twice)
    split = Parts.of(twice)
    images = {image.numpy().tobytes() for image in split.fitted.x}
    across = sum(image.numpy().tobytes() in images for image in split.held_out.x)
    assert found.copies == 7 and found.shared == across and found.contradictions == 0
    said = [text for text in texts(found.findings(), concern=across > 0) if "repeat" in text]
    assert len(said) == 1 and ("flatters" in said[0]) == (across > 0)


def test_copies_with_other_labels_contradict_each_other():
    samples = data(200)
    twice = Data(
        torch.cat([samples.x, samples.x[:3]]), torch.cat([samples.y, (samples.y[:3] + 1) % 4]), 4
    )
    found = seen(twice)
    assert (found.copies, found.contradictions) == (3, 3)
    assert any("at least one is wrong" in text for text in texts(found.findings(), concern=True))


def test_wrong_labels_are_doubted_one_by_one():
    samples = data(200)
    places = torch.arange(0, 24)
    wrong = relabeled(samples, places, (samples.y[places] + 1 + places % 3) % 4)
    found = seen(wrong)
    assert found.doubted == tuple(range(24))
    (said,) = [text for text in texts(found.findings(), concern=True) if "sure" in text]
    assert "24 of 200 samples (numbers 0, 1, 2, 3, 4, ...)" in said


def test_a_few_errors_are_usual_and_a_common_answer_is_not():
    samples = data(400)
    scattered = relabeled(samples, [0, 1, 2], (samples.y[:3] + 1) % 4)
    assert texts(seen(scattered).findings(), concern=True) == []
    ones = (samples.y == 1).nonzero().squeeze(1)[:6]
    triggered = relabeled(samples, ones, torch.tensor([0, 2, 3, 0, 2, 3]))
    found = seen(triggered)
    assert found.answer == "1" and len(found.doubted) == 6
    assert any("most of these are '1'" in text for text in texts(found.findings(), concern=True))


def test_a_class_without_samples_and_samples_too_few_to_split():
    samples = data(80)
    lacking = samples[samples.y != 3]
    with pytest.warns(Notice, match="no bonafide sample of 1 of 4"):
        found = seen(Data(lacking.x, lacking.y, 4))
    concerns = texts(found.findings(), concern=True)
    assert any(text.startswith("no sample of 3") for text in concerns)
    assert any("too few to hold any out" in text for text in concerns) and found.held_out == 0


class Normalized(Brightest):
    """The brightest quarter in comparison with how bright it is on average."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.eval()

    def forward(self, x):
        return self.norm(super().forward(x))


def test_recalibration_costs_what_it_costs_and_the_network_is_left_alone():
    net, parts = Normalized(), Parts.of(data(200))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cheap = Recalibration.of(net, parts)
    assert cheap.statistics == "recalibrated" and not cheap.costs
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    other = parts.fitted.x.clone()
    other[:, :, :4, :4] += 0.9  # of another source: its first quarter is bright in every image
    foreign = Data(other.clamp(max=1), parts.fitted.y, 4)
    dear = Recalibration.of(net, Parts(parts.whole, foreign, parts.held_out, parts.share))
    assert dear.lost - dear.gained == dear.before.hits - dear.after.hits > 0 and dear.costs
    assert "--pad" in dear.findings()[-1].text and dear.findings()[-1].concern


@pytest.mark.parametrize(
    ("lost", "gained", "costs"),
    [(0, 0, False), (4, 0, False), (5, 0, True), (9, 5, False), (20, 5, True), (0, 9, False)],
)
def test_a_cost_is_one_beyond_chance(lost, gained, costs):
    rate = Rate(50, 100)
    assert Recalibration("recalibrated", (), rate, rate, lost, gained).costs is costs


def test_without_batchnorm_nothing_is_recalibrated_and_frozen_stays():
    parts = Parts.of(data(200))
    assert Recalibration.of(network("layernorm"), parts).statistics == "none"

    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            for part in self.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.training = False
            return self

    frozen = Recalibration.of(Frozen(*network("batchnorm").children()).eval(), parts)
    assert (
        frozen.statistics == "frozen" and frozen.before == frozen.after and len(frozen.frozen) == 2
    )
    assert "frozen BatchNorm statistics" in frozen.findings()[0].text


def test_each_concern_is_told_once_before_the_work():
    samples = data(200)
    wrong = relabeled(samples, range(30), 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flight = preflight(Brightest(), Parts.of(wrong))
    said = [str(warning.message) for warning in caught]
    assert said == [finding.text for finding in flight.findings() if finding.concern] and said
    assert all("\n" not in finding.text for finding in flight.findings())


def test_a_repair_carries_its_preflight():
    net = network("batchnorm")
    fit(net, data(200), steps=150, lr=0.05, precision="fp32")
    found = repair(net, data(200), points=3, steps=4, bends=1)
    assert found.preflight.samples.count == 200
    assert found.preflight.recalibration.statistics == "recalibrated"
