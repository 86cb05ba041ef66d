"""Thresholds promise what they keep; areas and their intervals; trusted sets; the three rows."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from sklearn.metrics import roc_auc_score
from support.refusals import refused
from torch import nn

from isthmus import Bezier, Data, Linf, evaluate_path, fit
from isthmus.attacks import PGD
from isthmus.data import L2
from isthmus.detection import DetectionArea, ManifoldDetector, evaluate, screen_trusted
from isthmus.detection.detector import ABSTAIN
from isthmus.detection.evaluation import signed_noise
from isthmus.detection.thresholds import calibrated, resolves
from isthmus.evidence import detector_aware
from isthmus.metrics import Area
from isthmus.runs.notices import Notice


@pytest.mark.parametrize(("n", "rate"), [(60, 0.05), (200, 0.05), (500, 0.01), (100, 0.1)])
def test_the_interval_holds_the_false_positive_rate_of_a_known_distribution(n, rate):
    generator = torch.Generator().manual_seed(0)
    draws, held, rates = 400, 0, []
    for _ in range(draws):
        threshold = calibrated(torch.randn(n, generator=generator), rate)
        true = norm.sf(float(threshold))
        held += threshold.low <= true <= threshold.high
        rates.append(true)
    assert held >= beta.ppf(1e-4, 0.95 * draws, 0.05 * draws) * draws
    assert np.mean(rates) <= rate * 1.1


def test_the_false_positive_rate_on_fresh_clean_data_lies_in_its_interval():
    generator = torch.Generator().manual_seed(0)

    def images(n):
        return Data(torch.rand(n, 1, 3, 3, generator=generator), torch.zeros(n).long(), 1)

    detector = ManifoldDetector("knn", 5).fit(images(100))
    held = 0
    for _ in range(100):
        threshold = detector.calibrate(images(200)).threshold
        rate = float(detector.flags(images(4000).x).double().mean())
        spread = 2 * (rate * (1 - rate) / 4000) ** 0.5  # of the rate that is measured
        held += threshold.low - spread <= rate <= threshold.high + spread
    assert held >= 90


def test_equal_scores_are_not_flagged_and_promise_nothing_below():
    threshold = calibrated(torch.cat([torch.zeros(90), torch.ones(110)]), 0.05)
    assert threshold == 1 and threshold.low == 0 and threshold.high > 0.05
    assert threshold.flags(torch.tensor([0.0, 1.0, 1.0 + 1e-6])).tolist() == [False, False, True]
    assert pickle.loads(pickle.dumps(threshold)).interval == threshold.interval


def test_the_number_of_samples_that_a_tiny_rate_takes_is_computed():
    refused(lambda: calibrated(torch.arange(50), 1e-9), "expected 1999999998 samples")
    refused(lambda: calibrated(torch.arange(50), 1e-300), "from 50 samples")


def test_equal_calibration_images_count_once():
    detector = ManifoldDetector("knn", 5).fit(blobs(100))
    few = blobs(30, seed=1)
    many = Data(few.x.repeat(4, 1, 1, 1), few.y.repeat(4), 3)
    with pytest.warns(Notice, match="90 of 120 calibration samples repeat others"):
        refused(lambda: detector.calibrate(many), "from 30 samples")
    with pytest.warns(Notice):
        assert detector.calibrate(many, 0.1).threshold.samples == 30
    assert (
        detector.threshold
        == ManifoldDetector("knn", 5).fit(blobs(100)).calibrate(few, 0.1).threshold
    )


@pytest.mark.parametrize("rate", [0.2, 0.05, 0.01, 0.001])
def test_rates_that_samples_cannot_resolve_are_refused_with_the_number_that_can(rate):
    few = int(1 / rate)
    message = refused(lambda: calibrated(torch.arange(few), rate), f"from {few} samples")
    enough = int(message.split("expected ")[1].split()[0])
    assert enough > few and resolves(enough, rate) and not resolves(enough - 1, rate)
    assert all(resolves(n, rate) for n in range(enough, 3 * enough))


def test_the_area_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(80, generator=generator).round(decimals=1)
    bad = 1 + torch.randn(50, generator=generator).round(decimals=1)
    truth = [0] * 80 + [1] * 50
    area = Area.of(clean, bad)
    assert area == pytest.approx(roc_auc_score(truth, torch.cat([clean, bad])), abs=1e-12)
    assert float(Area.of(bad, clean)) == pytest.approx(1 - area, abs=1e-12)
    mirrored = Area.of(bad, clean)
    assert mirrored.low == pytest.approx(1 - area.high, abs=1e-9)


def test_intervals_of_areas_hold_the_true_area():
    generator = torch.Generator().manual_seed(0)
    true, held = norm.cdf(1 / 2**0.5), 0
    for _ in range(300):
        clean, bad = (torch.randn(60, generator=generator) + shift for shift in (0.0, 1.0))
        area = Area.of(clean, bad)
        held += area.low <= true <= area.high
    assert held >= 300 * 0.9
    perfect = Area.of(torch.zeros(30), torch.ones(30))
    assert perfect == 1 == perfect.high and 0.85 < perfect.low < 1


# ---- the three rows
def blobs(n, seed=0):
    """Images of 4x4 in three classes near a plane of two dimensions."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    shapes = torch.rand(3, 16, generator=torch.Generator().manual_seed(7))
    mixed = 0.5 + 0.4 * (shapes[y] - 0.5) * torch.rand(n, 1, generator=generator)
    x = mixed + 0.01 * torch.randn(n, 16, generator=generator)
    return Data(x.clamp(0, 1).view(n, 1, 4, 4), y, 3)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
    fit(net, blobs(300), steps=150, lr=0.01, optimizer=torch.optim.Adam, precision="fp32")
    return net.eval()


@pytest.fixture(scope="module")
def detector(net):
    detector = ManifoldDetector("lle", 10).fit(blobs(300), net)
    return detector.calibrate(blobs(200, seed=1))


def test_three_rows_are_always_there(detector, net):
    ball, data = Linf(0.1), blobs(120, seed=2)
    rows = evaluate(
        detector, net, data, ball, PGD(ball, returns="last"), detector_aware(detector, ball, 40)
    )
    assert [row.inputs for row in rows.rows] == ["attack", "noise"] + ["detector-aware attack"] * 3
    assert rows.attack.area > 0.9 and rows.noise.area > 0.9
    assert rows.attack.wrong > 0.5 > rows.noise.wrong
    for row in rows.rows:
        assert row.undetected <= min(row.wrong, 1 - row.detected + 1e-9)
        assert row.area.low <= row.area <= row.area.high
    scores = [row.quartiles[1] for row in rows.aware]
    assert scores[-1] < scores[0] and scores[-1] < rows.attack.quartiles[1]
    assert rows.worst.undetected >= rows.attack.undetected
    refused(
        lambda: evaluate(
            detector, net, blobs(300)[:120], ball, PGD(ball), detector_aware(detector, ball)
        ),
        "among the reference",
    )
    wrong = Data(data.x, (net(data.x).argmax(1) + 1) % 3, 3)
    for odd, words in (
        (wrong, "the network gets none right"),
        (Data(torch.rand(5, 1, 5, 5), torch.zeros(5).long(), 3), "(5, 1, 5, 5)"),
    ):
        refused(
            lambda odd=odd: evaluate(
                detector, net, odd, ball, PGD(ball), detector_aware(detector, ball)
            ),
            words,
        )


def test_the_detector_aware_attack_stays_in_ball_and_box(detector, net):
    data = blobs(30, seed=3)
    for ball in (Linf(0.05), L2(0.3)):
        moved = detector_aware(detector, ball, 5)(1.0)(net, data.x, data.y)
        assert ball.contains(moved - data.x).all() and moved.min() >= 0 and moved.max() <= 1
    still = detector_aware(detector, Linf(0.0), 5)(1.0)(net, data.x, data.y)
    assert torch.equal(still, data.x)
    refused(lambda: detector_aware(detector, Linf(0.1))(-1.0), "weight = -1")


def test_noise_has_the_size_of_the_attack():
    x = torch.full((20, 1, 4, 4), 0.5)
    for ball in (Linf(0.1), L2(0.4)):
        sizes = ball.norm(signed_noise(x, ball) - x)
        torch.testing.assert_close(sizes, torch.full_like(sizes, ball.eps), rtol=1e-5, atol=1e-6)
    assert (signed_noise(x, Linf(0.9)) >= 0).all()


def test_flagged_inputs_are_not_answered(detector, net):
    x = torch.cat([blobs(60, seed=4).x, torch.rand(60, 1, 4, 4)])
    answers, flags = detector.answers(x), detector.flags(x)
    assert ((answers == ABSTAIN) == flags).all() and flags[60:].all() and not flags[:60].all()
    with torch.no_grad():
        assert torch.equal(answers[~flags], net(x).argmax(1)[~flags])


def test_detection_is_asked_along_a_path(net):
    metric = DetectionArea(
        blobs(100, seed=5), blobs(300), lambda model, x, y: signed_noise(x, Linf(0.1)), "knn"
    )
    curve = Bezier(net, net)
    path = evaluate_path(curve, {"area": metric}, (0.0, 0.5, 1.0), recalibrate_on=blobs(300))
    values = path.values["area"]
    assert values[0] == metric(net) and min(values) > 0.9
    refused(lambda: DetectionArea(blobs(300)[:10], blobs(300), metric.change), "among the")


def test_samples_that_do_not_belong_to_a_trusted_set():
    data = blobs(300, seed=6)
    y = data.y.clone()
    wrong = torch.arange(0, 30, 3)
    y[wrong] = (y[wrong] + 1) % 3
    x = data.x.clone()
    foreign = torch.arange(100, 110)
    x[foreign] = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    screening = screen_trusted(Data(x, y, 3))
    assert screening.foreign[foreign].all() and int(screening.foreign.sum()) <= 15
    assert int(screening.mislabeled[wrong].sum()) >= 6
    assert len(screening.belonging(Data(x, y, 3))) == 300 - int(screening.suspects.sum())
    clean = screen_trusted(data)
    assert float(clean.suspects.double().mean()) < 0.1
    refused(lambda: screen_trusted(data[:10]), "10 samples")
    refused(lambda: screen_trusted(data, score="mahalanobis"), "over neighbors")


def test_ordinary_samples_among_copies_of_one_are_not_far_from_all_others():
    """The quartiles of 160 distances of 0 say nothing of the other 40."""
    ordinary = blobs(40, seed=8)
    copies = blobs(1, seed=9)
    x = torch.cat([copies.x.expand(160, -1, -1, -1), ordinary.x])
    y = torch.cat([copies.y.expand(160), ordinary.y])
    for score in ("knn", "lle", "kde"):
        foreign = screen_trusted(Data(x, y, 3), score=score).foreign
        assert not foreign[:160].any() and int(foreign.sum()) <= 4, score
    x[-1] = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert screen_trusted(Data(x, y, 3)).foreign[-1]
    same = Data(copies.x.expand(50, -1, -1, -1), copies.y.expand(50), 3)
    assert not screen_trusted(same).foreign.any()


def test_neighbors_of_many_labels_make_no_label_suspect():
    """Where neighbors do not tell the class, most of a clean set has neighbors of other labels."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(5, (400,), generator=generator)
    data = Data(torch.rand(400, 1, 4, 4, generator=generator), y, 5)
    screening = screen_trusted(data)
    assert float(screening.mislabeled.double().mean()) < 0.02
    x = data.x.flatten(1).numpy()
    for i in range(0, 400, 40):
        near = np.argsort(((x - x[i]) ** 2).sum(1))[1:11]
        counts = np.bincount(y[near].numpy(), minlength=5)
        counts[y[i]] = 0
        assert float(screening.disagreement[i]) == pytest.approx(counts.max() / 10)


def test_memory_stays_constant_over_ten_thousand_inputs():
    """What a score holds at once is bounded by one part, however many inputs there are."""
    detector = ManifoldDetector("lle", 20).fit(blobs(200))
    (part,) = detector.fitted.parts
    held = []
    local = part.local
    object.__setattr__(
        part, "local", lambda x, near: (held.append(near.numel()), local(x, near))[1]
    )
    assert detector.score(blobs(10_000, seed=1).x).shape == (10_000,)
    assert max(held) <= 2**22
