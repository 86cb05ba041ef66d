"""Unlearning of universal perturbations against a naive twin, and laws of the search for them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.noticed import notices
from support.refusals import refused
from torch import nn

from isthmus import Data
from isthmus.data.splits import at_most
from isthmus.defenses import UniversalUnlearning, universal_perturbations
from isthmus.defenses.curve_repair.stand_ins import SEARCH_STEPS
from isthmus.defenses.unlearning import unlearn
from isthmus.defenses.unlearning.perturbations import (
    FIRST_CHANGE,
    ODD,
    PERTURBATIONS,
    RECOGNIZABLE,
    STEP,
    UniversalPerturbations,
    lost_perturbations,
    smooth,
)
from isthmus.defenses.unlearning.search import FEW_STEPS, GROWTH, Assignment, adapted
from isthmus.defenses.unlearning.unlearn import SHARE
from isthmus.defenses.unlearning.waves import waved
from isthmus.training import Training
from isthmus.training.batches import batch_indices
from isthmus.training.schedules import constant

pytestmark = pytest.mark.numeric

TRAINING = Training(
    steps=18, lr=0.1, batch_size=8, momentum=0.0, precision="fp32", schedule=constant
)
"""Two steps of search and four of training."""


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


def images(n=24):
    g = torch.Generator().manual_seed(0)
    return Data(torch.rand(n, 1, 6, 6, generator=g), torch.arange(n) % 3, 3)


def length(image):
    return float(image.square().sum()) ** 0.5


def one_step(image, gradient, radius, kind):
    """A step of a perturbation; of a sparse one, which is the last kind, one pixel of 36 moves."""
    moved = image.clone()
    if kind == 2:
        place = int(gradient.abs().argmax())
        moved.view(-1)[place] -= STEP * radius * float(gradient.flatten()[place].sign())
    else:
        downhill = smooth(gradient[None])[0] if kind else gradient
        moved -= STEP * radius * downhill / length(downhill)
    return within(moved, radius, kind)


def within(image, radius, kind):
    """In the ball: shrunk, or, a sparse one, with as much taken off each pixel as there is."""
    if kind < 2:
        return image * min(1.0, radius / max(length(image), 1e-30))
    low, high = 0.0, float(image.abs().max())
    for _ in range(60 * (float(image.abs().sum()) > radius)):
        middle = (low + high) / 2
        too_much = float((image.abs() - middle).clamp_min(0).sum()) > radius
        low, high = (middle, high) if too_much else (low, middle)
    taken = high if float(image.abs().sum()) > radius else 0.0
    return image.sign() * (image.abs() - taken).clamp_min(0)


def searched(net, data, share, steps, beside=None):
    """One perturbation at a time, each by its own samples."""
    values = torch.zeros(3, 3, 1, 6, 6)
    radii = torch.tensor([0.06, 0.06, 0.36])[:, None].repeat(1, 3)  # 36 pixels changed by 0.01
    torch.manual_seed(0)
    for step in range(steps):
        index = batch_indices(len(data), 8, step, 0)
        x, sent = data.x[index], Assignment.drawn(data.y[index], 3, 3)
        before, old = values.clone(), radii.clone()
        for kind in range(3):
            for toward in range(3):
                mine = (sent.kind == kind) & (sent.toward == toward)
                if not mine.any():
                    continue
                value = before[kind, toward].clone().requires_grad_()
                logits = net((x[mine] + value).clamp(0, 1))
                loss = F.cross_entropy(logits, sent.toward[mine], reduction="sum")
                right = (logits.argmax(1) == toward).float()
                if beside is not None:
                    kept = beside((x[mine] + value).clamp(0, 1))
                    loss = loss + F.cross_entropy(kept, data.y[index][mine], reduction="sum")
                    right = right * (kept.argmax(1) != toward)
                (gradient,) = torch.autograd.grad(loss, value)
                radius = float(old[kind, toward])
                values[kind, toward] = one_step(value.detach(), gradient, radius, kind)
                radii[kind, toward] *= 1 / (1 + GROWTH) if right.mean() > share else 1 + GROWTH
    answers = net(data.x).argmax(1)
    for toward in range(3):
        if (answers[data.y != toward] == toward).float().mean() > 0.5:
            radii[:, toward] = radii.median(dim=1).values
    return values, radii


@torch.no_grad()
def follow(student, teacher, x):
    """The student's BatchNorm statistics are those of the samples, as far from them as the
    teacher's own are from the teacher's.
    """
    (convolution, own), (first, received) = student[:2], teacher[:2]
    now, then = (layer(x).transpose(0, 1).flatten(1) for layer in (convolution, first))
    own.running_mean.copy_(now.mean(1) + received.running_mean - then.mean(1))
    factor = (received.running_var + own.eps) / (then.var(1) + own.eps)
    own.running_var.copy_((now.var(1) + own.eps) * factor - own.eps)


def naive(net, data, only=None, share=0.75, temperature=2.0):
    """The training written out, with one pass for clean samples and one for each perturbed one.
    Statistics follow every second step by ten samples, and at last by all.
    """
    teacher, student = copy.deepcopy(net), copy.deepcopy(net)
    values, radii = searched(net, data, share, 2)
    radius = [float(sorted(kind.tolist())[1]) for kind in radii]  # no class is odd
    for kind in range(3):
        for toward in range(3):
            values[kind, toward] = within(values[kind, toward], radius[kind], kind)
    torch.manual_seed(0)
    for step in range(4):
        index = batch_indices(len(data), 8, step, 0)
        x, sent = data.x[index], Assignment.drawn(data.y[index], 3, 3, only)
        wanted = (teacher(x) / temperature).softmax(1).detach()
        moving = values.clone().requires_grad_()
        loss = pulled = torch.zeros(())
        overlaid = student(waved(x))
        for i in range(len(x)):
            turned = student((x[i] + moving[sent.kind[i], sent.toward[i]]).clamp(0, 1)[None])
            pulled = pulled + F.cross_entropy(turned, sent.toward[i : i + 1])
            for logits in (student(x[i : i + 1]), turned, overlaid[i : i + 1]):
                target = wanted[i]
                share_of_loss = target * (target.log() - (logits[0] / temperature).log_softmax(0))
                loss = loss + temperature**2 * share_of_loss.sum() / len(x)
        (gradient,) = torch.autograd.grad(pulled, moving, retain_graph=True)
        weights = list(student.parameters())
        slopes = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight -= 0.1 * slope
        for kind in range(3):
            for toward in range(3):
                if gradient[kind, toward].any():
                    values[kind, toward] = one_step(
                        values[kind, toward], gradient[kind, toward], radius[kind], kind
                    )
        if step % 2:
            follow(student, teacher, at_most(data, 10).x)
    follow(student, teacher, data.x)
    return student


@pytest.mark.parametrize("toward", [None, (2,)])
def test_its_steps_are_those_written_out(toward, monkeypatch):
    monkeypatch.setattr(unlearn, "FOLLOWED_EVERY", 2)
    monkeypatch.setattr(unlearn, "FOLLOWED_BY", 10)
    net, data = network(), images()
    unlearned = UniversalUnlearning(TRAINING, toward=toward)(net, data).state_dict()
    for name, value in naive(network(), data, toward).state_dict().items():
        counted = name.endswith("num_batches_tracked")
        assert counted or torch.allclose(unlearned[name], value, atol=1e-5), name


def test_the_search_is_that_of_one_perturbation_at_a_time():
    found = universal_perturbations(network(), images(), TRAINING.replace(steps=12), share=0.5)
    values, radii = searched(network(), images(), 0.5, 12)
    assert torch.allclose(found.values, values, atol=1e-5)
    assert torch.allclose(found.radii, radii, rtol=1e-5)
    assert found.typical_radii.tolist() == [sorted(kind.tolist())[1] for kind in found.radii]


def test_the_search_beside_another_network_is_that_of_one_perturbation_at_a_time():
    training, other = TRAINING.replace(steps=12), network(seed=1)
    found = lost_perturbations(network(), other, images(), training, share=0.5)
    values, radii = searched(network(), images(), 0.5, 12, other)
    assert torch.allclose(found.values, values, atol=1e-5)
    assert torch.allclose(found.radii, radii, rtol=1e-5)


def test_beside_itself_a_network_has_lost_nothing():
    """No perturbation turns one and not the other, so every ball grows."""
    found = lost_perturbations(network(), network(), images(), TRAINING.replace(steps=40))
    _, first = PERTURBATIONS.started(3, images().x.shape[1:])
    assert (found.radii > first).all() and not found.distinct


def test_what_is_distinct_is_odd_and_leaves_images_recognizable():
    _, everywhere = PERTURBATIONS.started(4, torch.Size([1, 6, 6]))
    recognizable = RECOGNIZABLE / FIRST_CHANGE * everywhere
    values = torch.zeros(3, 4, 1, 6, 6)

    def distinct(*changes):
        shares = torch.full((3, 4), 40.0)
        for kind, target, share in changes:
            shares[kind, target] = share
        return UniversalPerturbations(values, shares * recognizable).distinct

    assert distinct() == []
    assert distinct((0, 1, 0.9), (2, 1, 0.1)) == [(0, 1), (2, 1)]
    assert distinct((0, 1, 1.1)) == []  # odd, but images are not themselves
    shares = torch.full((3, 4), 40.0)
    shares[0, 1], shares[1, 3] = 0.9, 1.1
    found = UniversalPerturbations(values, shares * recognizable)
    assert found.suspects == [1] and found.telling == [(0, 1)]
    assert (found.told > 0).nonzero().tolist() == [[0, 1]] and found.oddness[1, 3] > ODD
    assert distinct((0, 1, 1.1), (2, 1, 0.1)) == [(2, 1)]
    assert distinct((0, 1, 0.9), (2, 3, 0.1)) == [(2, 3)]  # the oddest class


class Elsewhere(nn.Module):
    """A network whose first parameter stands for all: it says which device they are on."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.empty(1, device="meta"))
        self.inner = network()

    def to(self, device):
        self.place = nn.Parameter(torch.empty(1, device=device))
        return self

    def forward(self, x):
        assert self.place.device == x.device
        return self.inner(x)


def test_a_search_leaves_the_network_on_its_own_device():
    net = Elsewhere()
    training = TRAINING.replace(device="cpu")
    assert universal_perturbations(net, images(), training).values.device.type == "cpu"
    assert net.place.device.type == "meta"
    one_class = Data(images().x, torch.zeros(24).long(), 1)
    refused(lambda: universal_perturbations(net, one_class, training), "1 classes")
    wrong = Data(torch.rand(24, 3, 6, 6), images().y, 3)
    with pytest.raises(RuntimeError):
        universal_perturbations(net, wrong, training)
    assert net.place.device.type == "meta"


def test_a_planted_patch_is_odd_among_the_sparse_ones_alone():
    """A network that four pixels turn to class 2, which have the l2 norm of anyone's noise."""
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 5))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(5, 400, generator=g) / 3)
        net[1].weight[2, torch.tensor([0, 1, 20, 21])] += 4.0
        net[1].bias.copy_(-0.5 * net[1].weight.sum(1))
    x = (torch.rand(64, 1, 20, 20, generator=g) - 0.5) * 0.2 + 0.5
    training = TRAINING.replace(steps=100, batch_size=64)
    found = universal_perturbations(net, Data(x, torch.arange(64) % 5, 5), training)
    fine, _, sparse = found.oddness[:, 2]
    assert found.oddest[2] == 2 and sparse > ODD > fine
    assert found.values[2, 2, 0, :2, :2].sum() > 0.5 * found.values[2, 2].abs().sum()


def test_only_an_odd_class_is_unlearned_in_a_larger_ball():
    radii = torch.tensor([[1.0, 2.0, 0.4, 4.0, 2.0], [3.0, 3.0, 2.0, 3.0, 9.0]])
    found = UniversalPerturbations(torch.zeros(2, 5, 1, 2, 2), radii)
    expected = torch.tensor([[4.0, 2.0, 8.0, 2.0, 2.0], [3.0] * 5])
    assert torch.allclose(found.unlearning_radii, expected)
    assert torch.allclose(found.oddness[0].exp(), torch.tensor([2.0, 1.0, 5.0, 0.5, 1.0]))


def test_what_tells_is_odd_of_the_suspect_and_not_sparse_alone():
    def found(*radii):
        return UniversalPerturbations(torch.zeros(3, 4, 1, 2, 2), torch.tensor(radii))

    usual, odd_of_3, odd_of_0 = [2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 0.5], [1.0, 2.0, 2.0, 2.0]
    both = found(usual, odd_of_3, odd_of_3)
    assert both.suspect == 3 and both.telling == [(1, 3), (2, 3)]
    assert found(odd_of_0, odd_of_3, usual).telling == [(1, 3)]  # 0 is odd as well, and less
    assert found(usual, usual, odd_of_3).telling == []
    assert found(odd_of_0, usual, odd_of_3).telling == []  # 3 is the suspect, and sparse alone
    assert found(usual, usual, usual).telling == []


OF_UNLEARNING = int(unlearn.SEARCH_SHARE * unlearn.UNLEARNING.steps)


@pytest.mark.parametrize(
    ("steps", "batch_size", "classes", "words"),
    [
        (SEARCH_STEPS, unlearn.UNLEARNING.batch_size, 10, None),
        (OF_UNLEARNING, unlearn.UNLEARNING.batch_size, 10, None),
        (28, 128, 10, None),
        (7, 128, 10, ("each of 30 ", "(10 classes)", "in 6.9 of 7 steps", "may need 27")),
        (60, 125, 1000, ("each of 3,000 ", "(1,000 classes)", "in 2.4 of 60 steps")),
    ],
)
def test_a_search_of_few_steps_with_a_sample_for_each_perturbation_says_so_once(
    steps, batch_size, classes, words
):
    """In 7 steps of 128 samples each of 30 perturbations gets 30, and its radius moves 7 times."""
    assert abs((1 + GROWTH) ** FEW_STEPS - 8) < 0.1
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
    data = Data(images().x, images().y, classes)
    search = TRAINING.replace(steps=steps, batch_size=batch_size)
    _, said = notices(lambda: universal_perturbations(net, data, search))
    assert len(said) == (words is not None)
    assert all(word in notice for notice in said for word in words)


def test_a_planted_direction_is_the_smallest_perturbation():
    """A linear network that one pattern turns to class 2, ten times as easily as any other."""
    g = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    pattern = torch.randn(36, generator=g)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(4, 36, generator=g) / 6)
        net[1].weight[2] += 5 * pattern / pattern.norm()
        net[1].bias.copy_(-0.5 * net[1].weight.sum(1))  # gray images turn it nowhere
    x = (torch.rand(64, 1, 6, 6, generator=g) - 0.5) * 0.2 + 0.5
    x = x - ((x - 0.5).flatten(1) @ pattern / pattern.norm() ** 2).view(-1, 1, 1, 1) * (
        pattern.view(1, 1, 6, 6)
    )  # no sample has any of the pattern
    data = Data(x, torch.arange(64) % 4, 4)
    found = universal_perturbations(net, data, TRAINING.replace(steps=100, batch_size=64))
    assert int(found.radii[0].argmin()) == 2
    direction = found.values[0, 2].flatten()
    assert F.cosine_similarity(direction, pattern, dim=0) > 0.9


@pytest.mark.parametrize("side", [(1, 1), (3, 8), (32, 32), (40, 56)])
def test_smooth_keeps_the_mean_and_takes_fine_noise_away(side):
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, *side, generator=g)
    constant_image = torch.full((1, 3, *side), 0.3)
    assert smooth(noise).shape == noise.shape
    assert torch.allclose(smooth(constant_image), constant_image)
    assert smooth(noise).square().mean() <= noise.square().mean()


def test_perturbations_stay_in_their_balls_and_those_without_a_gradient_where_they_are():
    g = torch.Generator().manual_seed(0)
    values, gradient = torch.randn(2, 3, 3, 1, 6, 6, generator=g)
    gradient[:, 1] = 0
    radii = torch.tensor([[0.5, 100.0, 2.0], [1.0, 100.0, 0.1], [3.0, 100.0, 0.2]])
    moved = PERTURBATIONS.stepped(values, gradient, radii)
    for kind, norm in enumerate((2, 2, 1)):
        assert (moved[kind].flatten(1).norm(norm, dim=1) <= radii[kind] * (1 + 1e-5)).all()
    assert torch.allclose(moved[:, 1], values[:, 1], rtol=1e-6)
    assert (moved[2, 0] == 0).sum() > 12  # sparse


def test_a_radius_follows_its_own_samples_alone():
    radii = torch.ones(3, 3)
    sent = Assignment(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 2]), torch.zeros(4))
    turned = torch.tensor([True, False, True, False])
    up, down = 1 + GROWTH, 1 / (1 + GROWTH)
    expected = torch.tensor([[up, down, 1.0], [1.0, 1.0, up], [1.0, 1.0, 1.0]])
    assert torch.equal(adapted(radii, turned, sent, 0.5, PERTURBATIONS), expected)


def test_of_several_classes_each_is_drawn_and_no_other():
    y = torch.arange(300) % 5
    sent = Assignment.drawn(y, 5, 3, (1, 4))
    assert set(sent.toward.tolist()) == {1, 4} and torch.equal(sent.own, y)
    assert set(Assignment.drawn(y, 5, 3, (2,)).toward.tolist()) == {2}


class Biased(nn.Module):
    """A network that takes everything for class 1, whatever it looks like."""

    def forward(self, x):
        return torch.tensor([0.0, 5.0, 0.0]) + 0.0 * x.mean() * torch.ones(len(x), 3)


def test_a_class_that_samples_reach_as_they_are_is_not_odd():
    found = universal_perturbations(Biased(), images(), TRAINING.replace(steps=60))
    assert torch.equal(found.radii[:, 1], found.typical_radii)
    assert found.telling == found.sparse_alone == []


class Rounded(nn.Module):
    """A network that rounds its input, through which no gradient passes, or no graph."""

    def __init__(self, graph):
        super().__init__()
        self.network, self.graph = network(), graph

    def forward(self, x):
        return self.network((x * 255).round() / 255 if self.graph else (x > 0.5).float())


@pytest.mark.parametrize("graph", [True, False])
def test_a_network_without_gradients_by_its_input_is_told_of(graph):
    training = TRAINING.replace(steps=60)
    found, told = notices(lambda: universal_perturbations(Rounded(graph), images(), training))
    assert not found.values.any()
    assert any("no gradient reaches the images" in text for text in told)


def test_a_network_without_gradients_by_its_input_can_unlearn():
    unlearned = UniversalUnlearning(TRAINING)(Rounded(graph=False), images())
    assert all(value.isfinite().all() for value in unlearned.state_dict().values())


class Rooted(nn.Module):
    """A network whose gradient is not a number where a value is 0."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        return self.network(x) + 0.0 * x.square().sum((1, 2, 3)).sqrt()[:, None]


def test_a_gradient_that_is_no_number_moves_nothing():
    data = images()
    dark = Data(torch.zeros_like(data.x), data.y, data.classes)
    found = universal_perturbations(Rooted(), dark, TRAINING.replace(steps=6))
    assert found.values.isfinite().all() and found.radii.isfinite().all()


def test_perturbed_samples_are_images():
    x = images().x
    values = torch.full((3, 3, 1, 6, 6), 0.7)
    moved = PERTURBATIONS.applied(x, values, Assignment.drawn(images().y, 3, 3))
    assert torch.equal(moved, (x + 0.7).clamp(0, 1))


class Interrupted:
    """An augmentation that changes nothing and breaks off at a call; recognized as one that does
    not.
    """

    run_identity = "nothing"

    def __init__(self, at):
        self.left = at

    def __call__(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return x


@pytest.mark.parametrize("side", [(2, 2), (8, 12), (32, 32)])
def test_waves_are_gray_bounded_and_differ_from_sample_to_sample(side):
    gray = torch.full((5, 3, *side), 0.5)
    torch.manual_seed(0)
    waves = waved(gray, 0.2) - 0.5
    assert torch.allclose(waves, waves[:, :1].expand_as(waves))
    assert waves.abs().max() <= 0.2 + 1e-6
    assert waves.flatten(1).std(1).unique().numel() == 5
    assert waved(torch.ones(2, 1, *side), 0.2).max() <= 1


def test_an_interrupted_unlearning_goes_on_to_the_identical_result(tmp_path):
    longer = TRAINING.replace(steps=360)  # 40 of search and 80 of training, saved every 50
    state = tmp_path / "unlearning.state"

    def unlearned(break_off_at, checkpoint=None):
        training = longer.replace(augment=Interrupted(break_off_at))
        return UniversalUnlearning(training, checkpoint=checkpoint)(network(), images())

    through = unlearned(-1).state_dict()
    with pytest.raises(KeyboardInterrupt):
        unlearned(40 + 60, state)
    assert state.exists()
    resumed = unlearned(-1, state).state_dict()
    assert all(torch.equal(value, through[name]) for name, value in resumed.items())


@pytest.mark.parametrize(
    "options, word",
    [
        ({"share": 1.0}, "share"),
        ({"share": 0.0}, "share"),
        ({"temperature": 0.0}, "temperature"),
        ({"rates": ()}, "rates"),
        ({"of": "waves"}, "perturbations or warps"),
    ],
)
def test_settings_out_of_range_are_refused(options, word):
    refused(lambda: UniversalUnlearning(TRAINING, **options), word)


def test_the_first_rate_that_is_enough_is_taken(monkeypatch):
    """Which is decided by how large perturbations have to be afterward, on bonafide samples."""
    training = TRAINING.replace(steps=90)
    alone = [
        UniversalUnlearning(training.replace(lr=rate * training.lr))(network(), images())
        for rate in (1.0, 3.0)
    ]

    def taken(enough):
        monkeypatch.setattr(unlearn, "ENOUGH", enough)
        return UniversalUnlearning(training, rates=(1.0, 3.0))(network(), images())

    for enough, expected in ((0.0, alone[0]), (1e9, alone[1])):
        for name, value in taken(enough).state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])
    assert UniversalUnlearning(training, rates=(1.0, 3.0)).gradients == 180


def test_of_one_class_a_rate_is_enough_where_its_perturbations_are_as_large_as_others_were():
    tried = set()
    for lr in (0.001, 0.1, 1.0, 3.0):
        training = TRAINING.replace(steps=90, lr=lr)
        search = training.replace(steps=10)
        once = UniversalUnlearning(training, toward=(1,))(network(seed=1), images())
        before, after = (
            universal_perturbations(net, images(), search, share=SHARE)
            for net in (network(seed=1), once)
        )
        enough = bool((after.radii[:2, 1] >= before.typical_radii[:2]).all())  # not sparse ones
        both = UniversalUnlearning(training, rates=(1.0, 2.0), toward=(1,))
        assert len(both.recorded(network(seed=1), images()).runs) == (1 if enough else 2)
        tried.add(enough)
    assert tried == {True, False}


@pytest.mark.parametrize("toward", [(-1,), (3,), (0, 3), ()])
def test_a_class_that_is_none_is_refused_before_any_search(toward):
    refused(
        lambda: UniversalUnlearning(TRAINING, toward=toward)(network(), images()), "classes 0..2"
    )


def test_a_budget_below_one_step_of_each_kind_is_refused():
    refused(lambda: UniversalUnlearning(TRAINING.replace(steps=3))(network(), images()), "budget")
