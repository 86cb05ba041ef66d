"""Parts of the report: answers that changed, pictures, what was trained, what is foreign."""

import base64
import copy
import io
from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread
from support.networks import data, network

from isthmus import Data, Patch, fit, repair
from isthmus.attacks.backdoors.reactivation import IMAGES, RETUNING
from isthmus.curves import Route
from isthmus.defenses import Averaged, FineTune, UniversalUnlearning, averaged_repairs, inspect
from isthmus.defenses.inspection.found_triggers import Inverted, InvertedSuccess, Perturbation
from isthmus.defenses.unlearning import unlearn
from isthmus.defenses.unlearning.warps import FoundWarp
from isthmus.evidence import Judge, evidence, foreign_samples
from isthmus.evidence.answers import SHOWN, changed_answers
from isthmus.evidence.pictures import LARGEST, picture_of, png
from isthmus.evidence.trainings import trainings
from isthmus.metrics import Rate, logits
from isthmus.metrics.names import UNIVERSAL
from isthmus.training import Training

TRAINING = Training(steps=12, lr=0.01, precision="fp32")


def decoded(text):
    return torch.from_numpy(imread(io.BytesIO(base64.b64decode(text)))[:, :, :3].copy())


@pytest.fixture(scope="module")
def tampered():
    net = network("batchnorm")
    fit(net, data(200), steps=150, lr=0.05, precision="fp32", device="cpu")
    return net


def test_a_picture_is_the_image():
    image = torch.randint(0, 256, (3, 5, 9), generator=torch.Generator().manual_seed(0)) / 255
    assert torch.allclose(decoded(png(image)), image.permute(1, 2, 0), atol=1e-6)
    assert png(image) == png(image.clone())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_are_shown_as_their_mean_in_gray(channels):
    image = torch.rand(channels, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = decoded(png(image))
    assert torch.equal(seen[..., 0], seen[..., 2])
    assert torch.allclose(seen[..., 0], image.mean(0), atol=1 / 255)


def test_a_large_image_is_made_smaller_in_proportion():
    seen = decoded(png(torch.full((3, 256, 128), 0.4)))
    assert seen.shape == (LARGEST, LARGEST // 2, 3) and torch.allclose(
        seen, torch.tensor(0.4), atol=1 / 255
    )


def test_the_picture_of_a_trigger_is_what_it_does_to_gray():
    seen = decoded(picture_of(Patch(size=2, at=(0, 0)), (3, 8, 8)))
    assert (seen[:2, :2] == 1).all() and torch.allclose(seen[2:], torch.tensor(0.5), atol=1 / 255)


def test_changed_answers_are_counted_one_by_one():
    one, other, samples = network("linear", 1), network("linear", 2), data(120)
    counts, examples = changed_answers(one, other, samples, Judge(trigger=Patch(size=2), target=1))
    was, now = (logits(net, samples).argmax(1).tolist() for net in (one, other))
    lost = [
        i
        for i, (a, b, y) in enumerate(zip(was, now, samples.y.tolist(), strict=True))
        if a == y != b
    ]
    gained = [
        i
        for i, (a, b, y) in enumerate(zip(was, now, samples.y.tolist(), strict=True))
        if a != y == b
    ]
    assert (counts.n, counts.lost, counts.gained) == (120, len(lost), len(gained))
    shown = [image for image in examples if image.kind == "lost"]
    assert len(shown) == min(SHOWN, len(lost)) > 0
    for image, place in zip(shown, lost, strict=False):
        assert image.png == png(samples.x[place])
        assert (image.label, image.before, image.after) == tuple(
            map(str, (int(samples.y[place]), was[place], now[place]))
        )
    assert all(image.before != image.after for image in examples)


def test_equal_networks_have_no_examples():
    counts, examples = changed_answers(network("linear"), network("linear"), data(40), Judge())
    assert (counts.lost, counts.gained, examples) == (0, 0, ())


def test_a_curve_and_what_made_its_end_are_rows(tampered):
    other = FineTune(TRAINING.replace(lr=0.02))
    found = repair(tampered, data(200), other, route=Route(rho=1.0), training=TRAINING, points=3)
    tuned, curve = trainings(found)
    assert (tuned.name, tuned.steps, tuned.gradients, tuned.lr) == ("FineTune", 12, 12, 0.02)
    assert (curve.steps, curve.gradients, curve.rho, curve.lr) == (12, 24, 1.0, 0.01)
    assert curve.precision == "fp32" and curve.retries == 0 and curve.seconds > 0
    assert sum(row.gradients + row.wasted for row in (tuned, curve)) == found.gradients


def test_the_parts_of_a_mean_are_rows_with_their_own_settings(tampered):
    found = repair(
        tampered, data(200), averaged_repairs(TRAINING), bends=0, low=0.5, high=1.0, points=3
    )
    curve, tuned = trainings(found)
    assert (curve.name, tuned.name) == ("OnCurve", "FTSAM")
    assert curve.gradients + tuned.gradients == found.gradients
    assert (curve.steps, tuned.steps) == (curve.gradients // 2, tuned.gradients // 2)
    assert curve.rho != tuned.rho


@pytest.mark.parametrize("enough, tried", [(0.0, [0.03]), (1e9, [0.03, 0.09])])
def test_every_rate_that_was_tried_is_a_row_and_no_other(tampered, monkeypatch, enough, tried):
    """A copy is unlearned at one rate after another, until one is enough."""
    monkeypatch.setattr(unlearn, "ENOUGH", enough)
    other = UniversalUnlearning(TRAINING.replace(lr=0.03), rates=(1.0, 3.0))
    found = repair(tampered, data(200), other, bends=0, low=0.5, high=0.9, points=3)
    rows = trainings(found)
    assert [row.name for row in rows] == ["UniversalUnlearning"] * len(tried)
    assert [row.lr for row in rows] == pytest.approx(tried)
    assert sum(row.gradients for row in rows) == found.gradients == 12 * len(tried)
    assert found.endpoint.gradients == found.gradients


def test_of_a_mean_every_rate_of_a_part_is_a_row(tampered, monkeypatch):
    monkeypatch.setattr(unlearn, "ENOUGH", 0.0)
    parts = (UniversalUnlearning(TRAINING, rates=(1.0, 3.0)), FineTune(TRAINING))
    found = repair(tampered, data(200), Averaged(parts), bends=0, low=0.5, high=1.0, points=3)
    assert [row.gradients for row in trainings(found)] == [12, 12]
    assert found.gradients == 24


def test_a_given_network_has_no_row(tampered):
    found = repair(tampered, data(200), copy.deepcopy(tampered), bends=0, points=3)
    assert trainings(found) == ()


def test_the_trigger_of_an_inspection_is_shown(tampered):
    found = repair(tampered, data(200), points=3, steps=4, bends=1)
    seen = inspect(tampered, data(60), steps=2, starts=1)
    report = evidence(found, tampered, Judge(data(80, seed=5)), inspection=seen)
    part = report.found_trigger
    assert part.kind == seen.oddest.kind and part.reason == seen.reason
    assert part.png == picture_of(seen.oddest.trigger, (3, 8, 8))
    assert report.permanence.queries is None and not report.permanence.reactivation


@pytest.mark.parametrize("kind", ["perturbation", "warp"])
def test_without_an_inspection_what_the_repair_found_is_shown(kind, tampered):
    shifts = torch.full((2, 4, 4), 0.25)
    trigger = FoundWarp(shifts) if kind == "warp" else Perturbation(torch.full((3, 8, 8), 0.25))
    odd = Inverted(trigger, 1, kind, 0.5, -2.0, Rate(9, 10))
    samples = data(80, seed=5)
    found = repair(tampered, data(200), copy.deepcopy(tampered), bends=0, points=3)
    found = replace(found, metrics={UNIVERSAL: InvertedSuccess(samples, [odd])})
    part = evidence(found, tampered, Judge(samples)).found_trigger
    assert (part.kind, part.target, part.decision) == (kind, samples.names[1], "suspicious")
    assert part.success.hits == 9 and "beyond doubt" in part.reason
    plain = png(torch.full((3, 8, 8), 0.5))
    assert part.png not in (plain, picture_of(lambda x: x, (3, 8, 8), ruled=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_retuning_takes_the_precision_and_the_device_of_the_repair(
    precision, tampered, monkeypatch
):
    """No clock decides a figure of the report: two runs in one precision agree."""
    seen = []

    def spying(net, samples, *, training, **words):
        seen.append((training.precision, training.device, training.steps))
        return fit(net, samples, training=training.replace(steps=1), **words)

    monkeypatch.setattr("isthmus.attacks.backdoors.reactivation.fit", spying)
    budget = TRAINING.replace(precision=precision, device="cpu")
    found = repair(tampered, data(200), training=budget, points=3, steps=4, bends=1)
    judge = Judge(data(80, seed=5), Patch(size=2), 1)
    evidence(found, tampered, judge, queries=0)
    assert seen == [(precision, "cpu", RETUNING.steps)] * len(IMAGES)


def test_few_more_odd_samples_than_usual_are_no_doubt_of_a_set():
    """Four digits of 250, as a clean set may have: more than one in a hundred, by chance."""
    samples = data(250)
    noise = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    for odd, told in ((4, 0), (8, 8)):
        x = samples.x.clone()
        x[:odd] = noise[:odd]
        assert len(foreign_samples(Data(x, samples.y, 4))) == told


def test_samples_unlike_all_others_are_found_where_they_are_more_than_usual():
    samples = data(200)
    x = samples.x.clone()
    x[:10] = 1 - (torch.arange(192).view(3, 8, 8) % 2).float()
    assert foreign_samples(samples) == () and foreign_samples(samples[:50]) == ()
    odd = foreign_samples(Data(x.contiguous(), samples.y, 4))
    assert odd == () or set(odd) <= set(range(10))  # ten alike are each other's neighbors
    x[:10] = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    assert set(foreign_samples(Data(x, samples.y, 4))) == set(range(10))
