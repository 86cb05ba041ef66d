"""Every indicator against a naive twin, written from its definition alone, and its laws."""

import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from support.attacked import answered
from support.networks import network
from support.refusals import refused
from torch import nn

from isthmus import Data
from isthmus.attacks import APGD, INDICATORS, MSD, PGD, Square, WorstOf, examine, health
from isthmus.attacks.inputs.health.convergence import gain_curve
from isthmus.attacks.inputs.health.examine import examined
from isthmus.attacks.inputs.objectives import margin
from isthmus.data import L1, L2, Linf
from isthmus.metrics import Finding, Health, Passes, RobustAccuracy, as_record, from_record

pytestmark = pytest.mark.numeric

CLIMB = PGD(Linf(0.02), steps=6, restarts=3, returns="worst")
RUNS = {
    "l-inf": ("batchnorm", CLIMB),
    "l2": ("layernorm", PGD(L2(0.3), steps=6, restarts=3, returns="worst")),
    "fooled": ("batchnorm", PGD(Linf(0.01), steps=4, restarts=2)),
    "short steps": ("layernorm", PGD(Linf(0.02), steps=3, step=1e-4, returns="worst")),
    "last": ("batchnorm", PGD(Linf(0.02), steps=3, returns="last")),
}


def run_of(net, samples, attack):
    """The run of an attack, as `health` makes it."""
    passes = Passes(net)
    moved, watch = passes.watched(samples, attack)
    return examined(passes, attack, samples, moved, watch)


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    kind, attack = RUNS[request.param]
    return run_of(network(kind), answered(40, kind=kind), attack)


# ── naive twins ───────────────────────────────────────────────────────────────────────────────────
def loss_and_gradient(run, x, y):
    """Value and gradient of the attack's objective at one point."""
    x = x.clone().requires_grad_()
    value = run.attack.objective(run.model(x[None]), y[None])[0]
    (gradient,) = torch.autograd.grad(value, x)
    return float(value.detach()), gradient


def projected(ball, delta):
    if isinstance(ball, Linf):
        return delta.clamp(-ball.eps, ball.eps)
    return delta * min(1.0, ball.eps / max(float(delta.norm()), 1e-30))


def climbs(run):
    """For every trial and sample the points, values and gradients of all looks, with the samples
    that had left as None; sample by sample, by the definition of PGD.
    """
    attack = run.attack
    ball = attack.ball
    step = 2.5 * ball.eps / attack.steps if attack.step is None else attack.step
    generator = torch.Generator().manual_seed(attack.seed)
    x, y = run.clean.floats(), run.clean.y
    standing = run.right.clone() if attack.returns == "fooled" else torch.ones(len(x)).bool()
    trials = []
    for _ in range(attack.restarts):
        rows = standing.nonzero().squeeze(1).tolist()
        starts = ball.sample((len(rows), *x.shape[1:]), generator)
        trial = [None] * len(x)
        for row, start in zip(rows, starts, strict=True):
            point = ball.project(start[None], -x[row][None], 1 - x[row][None])[0] + x[row]
            looks = []
            for number in range(attack.steps + 1):
                if number == attack.steps and attack.returns == "last":
                    break
                value, gradient = loss_and_gradient(run, point, y[row])
                looks.append((point, value, gradient))
                wrong = run.model(point[None]).argmax(1)[0] != y[row]
                if attack.returns == "fooled" and wrong:
                    standing[row] = False
                    break
                if number == attack.steps:
                    break
                way = gradient.sign() if isinstance(ball, Linf) else gradient / gradient.norm()
                delta = point + step * way - x[row]
                point = ball.project(delta[None], -x[row][None], 1 - x[row][None])[0] + x[row]
            trial[row] = looks
        trials.append(trial)
    return trials, standing


@pytest.fixture(scope="module")
def climbed(run):
    trials, standing = climbs(run)
    taken = [i for i in range(len(run.clean)) if standing[i] and trials[0][i] is not None]
    return trials, taken


def mean(values):
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else None


def naive_alignment(run, trials, taken):
    steps = run.attack.steps
    values = []
    for trial in trials:
        for i in taken:
            point, _, gradient = trial[i][steps - 1]
            x = run.clean.floats()[i]
            agreeing = total = 0.0
            pairs = zip(
                point.flatten().tolist(),
                x.flatten().tolist(),
                gradient.flatten().tolist(),
                strict=True,
            )
            pairs = list(pairs)
            free = [
                (p, a, g)
                for p, a, g in pairs
                if not ((p <= 1e-6 and g < 0) or (p >= 1 - 1e-6 and g > 0))
            ]
            if isinstance(run.ball, Linf):
                total = sum(abs(g) for _, _, g in pairs)
                agreeing = total - sum(abs(g) for _, _, g in free)
                agreeing += sum(
                    abs(g) for p, a, g in free if (p - a) * np.sign(g) >= 0.999 * run.ball.eps
                )
            else:
                agreeing = sum((p - a) * g for p, a, g in free)
                total = math.sqrt(sum((p - a) ** 2 for p, a, _ in free))
                total *= math.sqrt(sum(g * g for _, _, g in free))
            values.append(agreeing / total)
    return mean(values)


def naive_boundary(run, trials, taken):
    ends = [trial[i][-1][0] - run.clean.floats()[i] for trial in trials for i in taken]
    size = (lambda d: d.abs().max()) if isinstance(run.ball, Linf) else (lambda d: d.norm())
    return mean([float(size(end)) / run.ball.eps for end in ends])


def naive_iterations(run, trials, taken):
    values = []
    full = run.ball.eps * (math.sqrt(192) if isinstance(run.ball, Linf) else 1)
    for trial in trials:
        for i in taken:
            points = [point for point, _, _ in trial[i]]
            moves = [float((b - a).norm()) for a, b in itertools.pairwise(points)]
            still = [k + 1 for k, move in enumerate(moves) if move <= 0.01 * full]
            values.append(float(still[0]) if still else math.inf)
    return sorted(values)[(len(values) - 1) // 2] if values else None


def best_values(trials, i):
    return [max(value for _, value, _ in trial[i]) for trial in trials]


def naive_spread(run, trials, taken):
    if len(trials) < 2:
        return None
    ends = [best_values(trials, i) for i in taken]
    return mean([(max(end) - min(end)) / abs(max(end)) for end in ends])


def naive_maxima(run, trials, taken):
    if len(trials) < 2:
        return None
    counts = []
    for i in taken:
        ends = [(trial[i][-1][0] - run.clean.floats()[i]).flatten() for trial in trials]
        new = [
            not any(float(F.cosine_similarity(end, ends[k], dim=0)) > 0.999 for k in range(j))
            for j, end in enumerate(ends)
        ]
        counts.append(float(sum(new)))
    return mean(counts)


def naive_rising(run, trials, taken):
    shares = []
    for trial in trials:
        for i in taken:
            values = [value for _, value, _ in trial[i]]
            late = max(1, round(0.1 * (len(values) - 1)))
            gained = max(values) - values[0]
            if len(values) > 2 and gained > 0:
                shares.append((max(values) - max(values[:-late])) / gained)
    return mean(shares)


def gradients_of(run, trials, i):
    """All gradients that the attack took of a sample: none at the last look."""
    looks = [trial[i][: run.attack.steps] for trial in trials if trial[i] is not None]
    return [gradient for some in looks for _, _, gradient in some]


def naive_blind(run, trials, first=False):
    zero = []
    for i in range(len(run.clean)):
        gradients = gradients_of(run, trials, i)
        asked = gradients[:1] if first else gradients
        zero.append(bool(asked) and all(not g.any() for g in asked))
    return sum(zero) / len(zero)


def answers(run, x):
    with torch.no_grad():
        return [int(run.model(image[None]).argmax(1)) for image in x]


def share(flags):
    return sum(flags) / len(flags) if flags else None


def chosen(run, among):
    """The samples of a probe: the first ones by the hash of image and label."""

    def digest(i):
        image = run.clean.x[i].numpy().tobytes()
        return hashlib.sha256(image + str(int(run.clean.y[i])).encode()).digest()

    order = [i for i in sorted(range(len(run.clean)), key=digest) if among[i]]
    return order[: min(48, max(32, len(run.clean) // 8))]


def low(hits, n):
    return float(binomtest(hits, n).proportion_ci(method="wilson").low) if n else None


def fooled_share(run, attack, among, *, right=False, model=None):
    """The fall of the robust accuracy under an attack, or the share it leaves right: at least."""
    index = chosen(run, among)
    if not index:
        return None
    x, y = run.clean.floats()[index], run.clean.y[index]
    moved = attack(model or run.model, x, y)
    wrong = [answer != label for answer, label in zip(answers(run, moved), y.tolist(), strict=True)]
    if right:
        return low(len(wrong) - sum(wrong), len(wrong))
    return low(sum(wrong), len(wrong)) * float(run.standing.double().mean())


def at_radius(run, factor):
    index = chosen(run, run.right)
    ball = replace(run.ball, eps=factor * run.ball.eps)
    x, y = run.clean.floats()[index], run.clean.y[index]
    moved = PGD(ball, steps=6, seed=1)(run.model, x, y)
    return sum(a == b for a, b in zip(answers(run, moved), y.tolist(), strict=True)), len(index)


def naive_flat(run):
    first, n = at_radius(run, 0.5)
    return None if first / n < 0.1 else at_radius(run, 4.0)[0] / first


def naive_rise(run):
    bounds = []
    for factor in (0.5, 4.0):
        ends = binomtest(*at_radius(run, factor)).proportion_ci(method="wilson")
        bounds.append((ends.low, ends.high))
    return max(0.0, bounds[1][0] - bounds[0][1])


def naive_roughness(run):
    index = chosen(run, run.standing)
    if not index:
        return None
    x, y = run.clean.floats()[index], run.clean.y[index]
    changes = {}
    with torch.no_grad():
        for distance in (0.02, 0.2, 0.005, 0.05):
            generator = torch.Generator().manual_seed(0)
            total = 0.0
            for _ in range(3):
                moved = (x + distance * run.ball.sample(x.shape, generator)).clamp(0, 1)
                for i in range(len(x)):
                    a, b = run.model(x[i : i + 1]), run.model(moved[i : i + 1])
                    total += abs(float(margin(b, y[i : i + 1]) - margin(a, y[i : i + 1])))
            changes[distance] = total
    ratios = [10 * changes[0.02] / changes[0.2], 10 * changes[0.005] / changes[0.05]]
    return min(max(ratio, 1 / ratio) for ratio in ratios)


def naive_rescaled(run):
    with torch.no_grad():
        logits = run.model(run.clean.floats())
    scale = float(logits.std(1).median()) / 2

    def objective(out, y):
        return F.cross_entropy((out - out.mean(1)[:, None]) / scale, y, reduction="none")

    attack = PGD(run.ball, steps=10, objective=objective, seed=1)
    return fooled_share(run, attack, run.standing)


def naive_transfer(run):
    deviation = run.ball.eps / (math.sqrt(3) if isinstance(run.ball, Linf) else math.sqrt(192))
    attack = PGD(run.ball, steps=6, returns="worst", seed=1)
    return fooled_share(run, attack, run.standing, model=blurred(run.model, deviation))


def blurred(net, deviation):
    """The mean logits over two draws of noise, image by image."""

    class Blur(nn.Module):
        def forward(self, x):
            generator = torch.Generator().manual_seed(0)
            draws = [torch.randn(x.shape[1:], generator=generator) for _ in range(2)]
            return torch.stack(
                [
                    sum(net((image + deviation * draw).clamp(0, 1)[None]) for draw in draws)[0] / 2
                    for image in x
                ]
            )

    return Blur().eval()


def naive_rounding(run):
    x, y = run.moved.floats(), run.clean.y.tolist()
    fooled = [i for i in range(len(x)) if run.right[i] and answers(run, x[i : i + 1])[0] != y[i]]
    again = [answers(run, (x[i : i + 1] * 255).round() / 255)[0] == y[i] for i in fooled]
    return share(again)


def naive_silent(run, trials):
    after = answers(run, run.moved.floats())
    flags = []
    for i, label in enumerate(run.clean.y.tolist()):
        looks = [look for trial in trials if trial[i] is not None for look in trial[i]]
        met = any(answers(run, point[None])[0] != label for point, _, _ in looks)
        flags.append(met and after[i] == label and bool(run.right[i]))
    return share(flags)


def naive_outside(run):
    deltas = run.moved.floats().double() - run.clean.floats().double()
    size = (lambda d: d.abs().max()) if isinstance(run.ball, Linf) else (lambda d: d.norm())
    return max(float(size(delta)) for delta in deltas) / run.ball.eps


def naive_digits(run):
    lost = []
    for row in run.model(run.clean.floats()).detach().numpy():
        spread = np.std(row.astype(np.float64), ddof=1)
        lost.append(min(1.0, float(np.abs(row).max()) * 2**-23 / spread))
    return sorted(lost)[(len(lost) - 1) // 2]


EVERY = torch.ones(40, dtype=torch.bool)
TWINS = {
    "zero gradients": lambda run, trials, taken: naive_blind(run, trials),
    "zero gradients at the start": lambda run, trials, taken: naive_blind(run, trials, True),
    "random answers": lambda run, trials, taken: 0.0,
    "undecided samples": lambda run, trials, taken: None,
    "probabilities as logits": lambda run, trials, taken: share(
        [bool((o >= 0).all() and abs(o.sum() - 1) < 1e-4) for o in run.model(run.clean.floats())]
    ),
    "lost digits": lambda run, trials, taken: naive_digits(run),
    "silent success": lambda run, trials, taken: naive_silent(run, trials),
    "weaker than none": lambda run, trials, taken: share(
        [
            a != b and c == b
            for a, b, c in zip(
                answers(run, run.clean.floats()),
                run.clean.y.tolist(),
                answers(run, run.moved.floats()),
                strict=True,
            )
        ]
    ),
    "outside the ball": lambda run, trials, taken: naive_outside(run),
    "reach": lambda run, trials, taken: (
        None if run.attack.step is None else run.attack.steps * run.attack.step / run.ball.eps
    ),
    "alignment": naive_alignment,
    "incomplete optimization": naive_rising,
    "boundary": naive_boundary,
    "spread over restarts": naive_spread,
    "distinct maxima": naive_maxima,
    "iterations to tolerance": naive_iterations,
    "lost to rounding": lambda run, trials, taken: naive_rounding(run),
    "few classes": lambda run, trials, taken: 4.0,
    "longer attack ahead": lambda run, trials, taken: fooled_share(
        run, PGD(run.ball, steps=20, objective=margin, seed=1), run.standing
    ),
    "black box ahead": lambda run, trials, taken: fooled_share(
        run, Square(run.ball, queries=30, seed=1), run.standing
    ),
    "rescaled logits": lambda run, trials, taken: naive_rescaled(run),
    "transfer ahead": lambda run, trials, taken: naive_transfer(run),
    "unconstrained attack fails": lambda run, trials, taken: fooled_share(
        run,
        PGD(Linf(1.0) if isinstance(run.ball, Linf) else L2(math.sqrt(192)), steps=10, seed=1),
        run.right,
        right=True,
    ),
    "rising in eps": lambda run, trials, taken: naive_rise(run),
    "flat in eps": lambda run, trials, taken: naive_flat(run),
    "eps 0 differs": lambda run, trials, taken: 0.0,
    "unstable predictions": lambda run, trials, taken: naive_roughness(run),
    "gradients inside the network": lambda run, trials, taken: 0.0,
}


def test_every_indicator_has_a_twin():
    assert list(TWINS) == list({indicator.name: None for indicator in INDICATORS})
    assert len(TWINS) == len(INDICATORS)


@pytest.mark.parametrize("indicator", INDICATORS, ids=lambda indicator: indicator.name)
def test_an_indicator_agrees_with_its_twin(indicator, run, climbed):
    expected = TWINS[indicator.name](run, *climbed)
    value = indicator.measure(run)
    assert value == (None if expected is None else pytest.approx(expected, rel=2e-3, abs=1e-6))


# ── laws ──────────────────────────────────────────────────────────────────────────────────────────
def linear(classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).eval()


def two_classes():
    """A linear network of two classes: one direction of the gradient, one maximum."""
    net = linear(2)
    x = 0.3 + 0.4 * torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net, Data(x, net(x).argmax(1), 2)


@pytest.mark.parametrize("ball", [Linf(0.001), L2(0.01)])
def test_a_linear_network_has_one_maximum_that_every_start_finds(ball):
    net, samples = two_classes()
    found = health(net, samples, PGD(ball, 12, 2 * ball.eps, restarts=3, returns="worst"))
    assert found["alignment"] == pytest.approx(1, abs=1e-4)
    assert found["spread over restarts"] == pytest.approx(0, abs=1e-5)
    assert found["distinct maxima"] == 1
    assert found["boundary"] == pytest.approx(1, abs=1e-4)
    assert found["iterations to tolerance"] < 12
    assert found["unstable predictions"] == pytest.approx(1, rel=0.02)


def test_the_order_of_the_samples_changes_nothing():
    net, samples = network("layernorm"), answered(20, kind="layernorm")
    attack = WorstOf([PGD(Linf(0.02), steps=3, restarts=2), APGD(Linf(0.02), "dlr", steps=3)])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert health(net, samples, attack) == health(net, samples[order], attack)


def test_the_gain_curve_rises_from_0_to_1():
    net, samples = network("batchnorm"), answered(40)
    curve = gain_curve(run_of(net, samples, CLIMB).tracks, steps=range(7))
    means = [float(curve[step].mean()) for step in range(7)]
    assert means == sorted(means) and min(means) >= 0 and max(means) <= 1
    assert float(curve[6].max()) == 1


def test_remembering_changes_no_attack():
    net, samples = network("batchnorm"), answered(24)
    chain = WorstOf([CLIMB, APGD(Linf(0.02), steps=3)])
    for attack in (CLIMB, Square(Linf(0.05), queries=9), chain):
        alone = attack(net, samples.floats(), samples.y)
        with attack.remembering():
            assert torch.equal(attack(net, samples.floats(), samples.y), alone)


@pytest.mark.parametrize(
    "attack",
    [PGD(L1(2.0), steps=3), Square(L2(0.2), queries=5), MSD([Linf(0.02), L2(0.2)], steps=2)],
    ids=lambda attack: type(attack).__name__,
)
def test_every_ball_and_attack_has_a_health(attack):
    net, samples = network("layernorm"), answered(16, kind="layernorm")
    found = health(net, samples, attack)
    assert isinstance(found.trustworthy, bool) and found.samples == 16
    assert all(finding.value is None or finding.value >= 0 for finding in found.findings)


def test_robust_accuracy_carries_its_health():
    net, samples = network("batchnorm"), answered(24)
    attack = PGD(Linf(0.02), steps=4, restarts=2)
    alone = RobustAccuracy(samples, attack)(net)
    probed = RobustAccuracy(samples, attack, examine=examine)(net)
    assert alone == probed and alone.n == 24
    names = {finding.name for finding in alone.health.findings}
    assert names < {finding.name for finding in probed.health.findings}
    assert from_record(as_record(probed)).health.record == probed.health.record
    foreign = RobustAccuracy(samples, lambda model, x, y: attack(model, x, y))(net)
    assert foreign == alone and foreign.health is None


def test_a_health_is_what_its_findings_say():
    good = Finding("a", 0.1, 0.5, decisive=True)
    bad = Finding("b", 0.1, 0.5, decisive=True, below=True)
    odd = Finding("c", 2.0, 0.5, decisive=False)
    unknown = Finding("d", None, 0.5, decisive=True)
    assert Health("PGD", 3, (good, odd, unknown), ("c",)).trustworthy
    found = Health("PGD", 3, (good, bad), ("b",))
    assert not found.trustworthy and found.fired == ("b",)
    assert Health.from_record(found.record) == found


def test_bad_input_is_refused_in_one_line():
    samples = answered(8)
    refused(lambda: health(linear(3), samples, CLIMB), "outputs of shape", "4")
    refused(lambda: health(network("batchnorm"), samples.floats(), CLIMB), "expected")
    constant = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    blind = nn.Sequential(Detached(), constant)
    refused(lambda: health(blind, samples, CLIMB), "no gradient", "Square")


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()
