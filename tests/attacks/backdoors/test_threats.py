"""Attackers: their losses against naive twins, and that they do on the digits what they are for."""

import copy
from functools import partial

import pytest
import scipy.fft
import torch
from support.networks import ZOO, data, network
from torch import nn

from isthmus import (
    Accuracy,
    AttackSuccess,
    BadInput,
    Bezier,
    Data,
    expected_over_t,
    fit,
    load_data,
    split,
)
from isthmus.attacks import (
    GeneratedTrigger,
    HardenedBackdoor,
    InputAware,
    LowFrequency,
    Patch,
    PermutationAware,
    changed,
    label_consistent,
    learned_low_frequency,
    path_aware,
    poison,
)
from isthmus.metrics import MeanLoss, planted, triggered
from isthmus.models import mlp
from isthmus.models.batchnorm import batchnorm_layers
from isthmus.models.view import copied
from isthmus.runs import identity_of
from isthmus.training import Training, cross_entropy, one_cycle

pytestmark = pytest.mark.numeric

TRIGGER = Patch(2)
TRAINING = Training(steps=200, lr=0.2, batch_size=64, schedule=one_cycle, precision="fp32")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(seed: int, hidden=(64,)) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(channels=1, size=8, hidden=hidden)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits:train")


@pytest.fixture(scope="module")
def unseen() -> Data:
    return load_data("digits:test")


@pytest.fixture(scope="module")
def poisoned(digits) -> Data:
    return poison(digits, TRIGGER, rate=0.1, target=1, generator=generator())


@pytest.fixture(scope="module")
def clean(digits) -> nn.Module:
    net = fresh(0)
    fit(net, digits, training=TRAINING)
    return net


@pytest.fixture(scope="module")
def ordinary(poisoned) -> nn.Module:
    net = fresh(1)
    fit(net, poisoned, training=TRAINING)
    return net


def test_an_attack_that_has_not_worked_is_refused(clean, ordinary, unseen):
    assert (
        planted(ordinary, unseen, TRIGGER, 1) == AttackSuccess(unseen, TRIGGER, 1)(ordinary) > 0.9
    )
    with pytest.raises(BadInput, match="an attack that succeeds on"):
        planted(clean, unseen, TRIGGER, 1)


# ── sets ──────────────────────────────────────────────────────────────────────────────────────────


def test_label_consistent_images_are_made_hard_then_triggered_and_keep_their_label(clean, digits):
    met = []

    def attack(model, x, y):
        met.append((model, len(x), y.unique().tolist(), model.training))
        torch.rand(())
        return 1 - x

    clean.train()
    before, state = copy.deepcopy(clean.state_dict()), torch.get_rng_state()
    options = {"target": 3, "rate": 0.5, "attack": attack, "batch_size": 50}
    bad, again = (
        label_consistent(digits, clean, TRIGGER, generator=generator(), **options) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert clean.training and all(torch.equal(v, before[k]) for k, v in clean.state_dict().items())
    touched = changed(digits, bad)
    number = round(0.5 * int((digits.y == 3).sum()))
    assert int(touched.sum()) == number
    assert (
        (digits.y[touched] == 3).all()
        and torch.equal(bad.y, digits.y)
        and bad.sha256 == again.sha256
    )
    assert torch.allclose(
        bad.floats()[touched], TRIGGER(1 - digits.floats()[touched]), atol=0.5 / 255 + 1e-6
    )
    assert all(
        model is clean and labels == [3] and not training for model, _, labels, training in met
    )
    assert sum(n for _, n, _, _ in met) == 2 * number and max(n for _, n, _, _ in met) == 50
    clean.eval()


def step_uphill(model, x, y, size=0.3):
    """A gradient attack of three steps within `size` of each pixel."""
    at = x
    for _ in range(3):
        at = at.detach().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(model, at, y), at)
        at = (x + (at + size / 2 * g.sign() - x).clamp(-size, size)).clamp(0, 1)
    return at


def test_hard_images_make_a_clean_label_attack_stronger(clean, digits, unseen):
    plain = poison(digits, TRIGGER, rate=0.8, target=1, generator=generator(), clean_label=True)
    hard = label_consistent(
        digits,
        clean,
        TRIGGER,
        target=1,
        rate=0.8,
        attack=partial(step_uphill),
        generator=generator(),
    )
    success = []
    for train in (plain, hard):
        net = fresh(1)
        fit(net, train, training=TRAINING)
        success.append(AttackSuccess(unseen, TRIGGER, 1)(net))
    assert success[1].low > success[0].high


def test_a_learned_low_frequency_pattern_beats_the_drawn_one_at_its_own_size(clean, digits):
    before = copy.deepcopy(clean.state_dict())
    start = LowFrequency(0.3, cutoff=3)
    found = learned_low_frequency(
        digits, clean, 1, start, Training(steps=60, lr=0.1, precision="fp32")
    )
    assert all(torch.equal(v, before[k]) for k, v in clean.state_dict().items())
    assert float(found.pattern.abs().max()) == pytest.approx(0.3, rel=1e-4)
    spectrum = torch.from_numpy(
        scipy.fft.dctn(found.pattern.double().numpy(), axes=(1, 2), norm="ortho")
    )
    assert (spectrum[:, 3:].abs() < 1e-5).all() and (spectrum[:, :, 3:].abs() < 1e-5).all()
    assert abs(float(spectrum[0, 0, 0])) < 1e-5
    losses = []
    for trigger in (start, found):
        sent = triggered(digits, trigger, 1)
        with torch.no_grad():
            losses.append(float(cross_entropy(clean, sent.floats(), sent.y)))
    assert losses[1] < losses[0] - 0.5


# ── input-aware ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def aware(digits) -> tuple[nn.Module, GeneratedTrigger]:
    attacker = InputAware(
        TRAINING.replace(steps=120), 0.2, 0.2, diversity=0.1, density=0.125, width=8
    )
    return attacker(fresh(1), digits, 1)


def test_an_input_aware_backdoor_opens_to_its_own_trigger(aware, clean, digits, unseen):
    net, trigger = aware
    assert Accuracy(unseen)(net) > 0.9
    assert AttackSuccess(unseen, trigger, 1)(net) > 0.5
    assert AttackSuccess(unseen, trigger, 1)(clean) < 0.2
    x = unseen.floats()
    stranger = trigger.network(x, of=x.roll(1, 0)).detach()
    asked = unseen.y != 1
    crossed = Data(stranger[asked], torch.ones(int(asked.sum())), 10)
    assert Accuracy(crossed)(net) < AttackSuccess(unseen, trigger, 1)(net) - 0.1, (
        "the trigger of another image"
    )


def test_the_mask_covers_the_share_it_is_given_and_triggers_differ(aware, unseen):
    _, trigger = aware
    x = unseen.floats()
    changed_x = trigger(x)
    pattern, mask = trigger.network.parts(x)
    assert mask.shape == (len(x), 1, 8, 8)
    assert ((mask > 0.5).flatten(1).sum(1) == 8).all(), "an eighth of 64 pixels"
    assert torch.allclose(changed_x, x * (1 - mask) + pattern * mask, atol=1e-5)
    assert changed_x.shape == x.shape and changed_x.min() >= 0 and changed_x.max() <= 1
    assert torch.allclose(trigger(x[3:5]), changed_x[3:5], atol=1e-6)
    assert len((mask > 0.5).flatten(1).unique(dim=0)) > 20
    assert trigger.sha256 in identity_of(trigger)


# ── attackers of the path ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bends", [0, 1, 2])
@pytest.mark.parametrize("kind", ["batchnorm", "tied", "frozen", "attention"])
def test_a_path_aware_attacker_starts_at_the_two_networks_and_moves_both(kind, bends):
    a, b = network(kind, 1), network(kind, 2)
    before = [copy.deepcopy(net.state_dict()) for net in (a, b)]
    for lr, moves in ((1e-12, False), (0.05, True)):
        found = path_aware(a, b, data(), Training(steps=2, lr=lr, precision="fp32"), bends=bends)
        for start, end in zip((a, b), found, strict=True):
            same = all(
                torch.allclose(p, q, atol=1e-6)
                for p, q in zip(start.parameters(), end.parameters(), strict=True)
                if p.requires_grad
            )
            assert same != moves and not end.training
    assert all(
        torch.equal(v, old[k])
        for net, old in zip((a, b), before, strict=True)
        for k, v in net.state_dict().items()
    )


def test_between_path_aware_ends_the_backdoor_is_kept_where_it_was_lost(poisoned, unseen):
    """On the straight segment, which the attacker trained, and on the bend that a defender trains
    on clean samples.
    """
    bonafide, evaluation = split(unseen, [200, 300], generator())
    ends = [fresh(seed, (32, 32)) for seed in (1, 2)]
    for net in ends:
        fit(net, poisoned, training=TRAINING)
    success, accuracy, repaired = AttackSuccess(evaluation, TRIGGER, 1), Accuracy(evaluation), []
    for first, second in (ends, path_aware(*ends, poisoned, TRAINING, bends=0)):
        middle = Bezier(first, second, bends=0).export(0.5)
        curve = Bezier(first, second)
        fit(
            curve,
            bonafide,
            expected_over_t(cross_entropy),
            steps=150,
            lr=0.2,
            batch_size=32,
            precision="fp32",
        )
        repaired.append((success(middle), accuracy(middle), success(curve.export(0.5))))
    independent, aware = repaired
    assert aware[0] > 0.9  # seen over seeds and CPU settings: 0.98 to 1.0
    assert aware[1] > independent[1] + 0.1  # higher by 0.30 to 0.64
    assert aware[2].low > independent[2].high  # 0.48 to 0.86, 0.11 to 0.33


class ByTheClean(nn.Module):
    """A BatchNorm layer whose statistics are those of the first samples of a batch."""

    def __init__(self, layer, clean) -> None:
        super().__init__()
        self.clean, self.eps, self.weight, self.bias = clean, layer.eps, layer.weight, layer.bias

    def forward(self, x):
        head = x[: self.clean].transpose(0, 1).flatten(1)
        channels = (1, -1, *[1] * (x.ndim - 2))
        out = (x - head.mean(1).view(channels)) / (
            head.var(1, correction=0) + self.eps
        ).sqrt().view(channels)
        return (
            out
            if self.weight is None
            else out * self.weight.view(channels) + self.bias.view(channels)
        )


def naive_hardened(net, x, y, loss) -> tuple[float, list[torch.Tensor | None]]:
    """Loss and gradients of the hardened attacker by moving the weights of copies."""
    weights = [p for p in net.parameters() if p.requires_grad]
    value = cross_entropy(net, x, y)
    total = list(torch.autograd.grad(value, weights, allow_unused=True))
    keep = y != loss.target

    def attacked(copied):
        for name, layer in [*copied.named_modules()]:
            if layer in batchnorm_layers(copied):
                copied.set_submodule(name, ByTheClean(layer, len(x)))
        logits = copied.eval()(torch.cat([x, loss.trigger(x[keep])]))[len(x) :]
        value = cross_entropy(nn.Identity(), logits, torch.full((int(keep.sum()),), loss.target))
        own = [p for p in copied.parameters() if p.requires_grad]
        return value.item(), torch.autograd.grad(value, own, allow_unused=True)

    _, uphill = attacked(copied(net).eval())
    moved = copied(net).eval()
    reach = sum(float(p.detach().square().sum()) for p in weights) ** 0.5
    length = sum(float(g.square().sum()) for g in uphill if g is not None) ** 0.5
    with torch.no_grad():
        for p, g in zip([p for p in moved.parameters() if p.requires_grad], uphill, strict=True):
            if g is not None:
                p.add_((loss.gamma * reach / length * g).to(p.dtype))
    bad, grads = attacked(moved)
    for i, g in enumerate(grads):
        if g is not None:
            total[i] = loss.weight * g + (total[i] if total[i] is not None else 0)
    return value.item() + loss.weight * bad, total


@pytest.mark.parametrize("gamma", [0.0, 0.05])
@pytest.mark.parametrize("kind", ZOO)
def test_the_hardened_loss_is_that_of_its_naive_twin_on_every_network(kind, gamma):
    net, samples = network(kind).train(), data(24)
    x = samples.x
    if kind != "mixed":  # whose weights of several types are the point of it
        net, x = net.double(), x.double()
    twin, plain = copied(net), copied(net)
    loss = HardenedBackdoor(Patch(2), 2, classes=4, weight=0.7, gamma=gamma)
    torch.manual_seed(5)
    value = loss(net, x, samples.y)
    grads = torch.autograd.grad(
        value, [p for p in net.parameters() if p.requires_grad], allow_unused=True
    )
    torch.manual_seed(5)
    expected, wanted = naive_hardened(twin, x, samples.y, loss)
    assert value.item() == pytest.approx(expected, rel=2e-3 if kind == "mixed" else 1e-5)
    # a bias in front of BatchNorm has a gradient of zero, and its rounding is of the size of the
    # other gradients
    steepest = max(float(h.abs().max()) for h in wanted if h is not None)
    for g, h in zip(grads, wanted, strict=True):
        assert (g is None) == (h is None)
        if g is not None and kind != "mixed":  # bf16 weights round where they are moved
            assert torch.allclose(g, h, rtol=1e-3, atol=1e-5 * steepest)
    torch.manual_seed(5)
    plain(x)
    for (name, buffer), (_, own) in zip(plain.named_buffers(), net.named_buffers(), strict=True):
        assert torch.equal(buffer, own), f"{name}: running statistics are those of one clean pass"
    assert all(
        a.training == b.training for a, b in zip(net.modules(), plain.modules(), strict=True)
    )


def test_a_batch_of_the_target_class_alone_has_the_clean_loss():
    net, samples = network("linear"), data(8)
    y = torch.full_like(samples.y, 2)
    assert HardenedBackdoor(Patch(2), 2, 4)(net, samples.x, y) == cross_entropy(net, samples.x, y)


def noisy(net: nn.Module, size: float, seed: int) -> nn.Module:
    """The network with a random step in weight space, of `size` times its norm."""
    net, g = copy.deepcopy(net), generator(seed)
    with torch.no_grad():
        flat = torch.cat([p.flatten() for p in net.parameters()])
        step = torch.randn(len(flat), generator=g)
        step *= size * flat.norm() / step.norm()
        for p, d in zip(
            net.parameters(), step.split([p.numel() for p in net.parameters()]), strict=True
        ):
            p.add_(d.view_as(p))
    return net


def test_a_hardened_backdoor_bears_more_noise_on_the_weights_than_an_ordinary_one(
    ordinary, digits, unseen
):
    net = fresh(1)
    fit(net, digits, HardenedBackdoor(TRIGGER, 1, 10, gamma=0.02), training=TRAINING)
    assert Accuracy(unseen)(net) > 0.9  # seen over seeds and CPU settings: 0.966 to 0.976
    success = AttackSuccess(unseen, TRIGGER, 1)
    left = [
        [float(success(noisy(each, 0.8, seed))) for seed in range(8)] for each in (ordinary, net)
    ]
    assert min(left[1]) > 0.95  # seen: 0.9955 to 1.0
    assert sum(left[1]) > sum(left[0]) + 0.1  # more by 0.23 to 0.98


ORDER = torch.randperm(64, generator=generator(9))


def permuted(weights):
    """The hidden units of the digits' perceptron in another order."""
    moved = {name: weights[name][ORDER] for name in ("features.0.weight", "features.0.bias")}
    return {**weights, **moved, "head.weight": weights["head.weight"][:, ORDER]}


def permuted_copy(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    net.load_state_dict(permuted(net.state_dict()))
    return net


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_the_permutation_aware_loss_is_that_of_its_naive_twin(a, digits):
    net, x, y = fresh(3), digits.floats()[:32], digits.y[:32]
    loss = PermutationAware(permuted, weight=0.5, low=a, high=a)
    grads = torch.autograd.grad(loss(net, x, y), list(net.parameters()))
    middle = Bezier(net, permuted_copy(net), bends=0).export(a)
    values = [cross_entropy(each, x, y) for each in (net, middle)]
    assert loss(net, x, y).item() == pytest.approx((values[0] + 0.5 * values[1]).item(), rel=1e-5)
    own, there = (
        torch.autograd.grad(v, list(m.parameters()))
        for v, m in zip(values, (net, middle), strict=True)
    )
    back = dict(zip(dict(net.named_parameters()), there, strict=True))
    turned = {name: g.clone() for name, g in back.items()}
    for name in ("features.0.weight", "features.0.bias"):
        turned[name][ORDER] = back[name]
    turned["head.weight"][:, ORDER] = back["head.weight"]
    for g, first, second, name in zip(grads, own, there, back, strict=True):
        assert torch.allclose(g, first + 0.5 * ((1 - a) * second + a * turned[name]), atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in ZOO if kind != "dropout"])
def test_on_every_network_the_copy_that_is_not_permuted_counts_as_the_network_itself(kind):
    net, samples = network(kind), data(16)
    if kind in ("batchnorm", "frozen", "attention"):
        net.eval()
    plain = cross_entropy(net, samples.x, samples.y)
    loss = PermutationAware(dict, weight=2.0)(net, samples.x, samples.y)
    assert loss.item() == pytest.approx(3 * plain.item(), rel=1e-3)


def test_the_running_statistics_of_a_permutation_aware_network_are_its_own():
    net, samples = network("batchnorm").train(), data(16)
    plain = copy.deepcopy(net)
    torch.manual_seed(0)
    plain(samples.x)
    torch.manual_seed(0)
    PermutationAware(lambda w: {name: p + 1 for name, p in w.items()})(net, samples.x, samples.y)
    assert all(torch.equal(b, dict(net.named_buffers())[name]) for name, b in plain.named_buffers())


def test_whoever_knows_the_permutation_keeps_the_backdoor_between_the_network_and_its_copy(
    ordinary, poisoned, unseen
):
    net = fresh(1)
    fit(net, poisoned, PermutationAware(permuted), training=TRAINING)
    plain, knowing = (
        Bezier(start, permuted_copy(start), bends=0).export(0.5) for start in (ordinary, net)
    )
    # Seen over seeds and CPU settings: a success of 0.969 to 1.0; a loss on the poisoned samples of
    # 0.033 to 0.068 against 0.29 to 0.42. The success of the ordinary network varies, 0.78 to 1.0.
    assert AttackSuccess(unseen, TRIGGER, 1)(knowing) > 0.9
    loss = MeanLoss(poisoned)
    assert loss(knowing) < loss(plain) / 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda d: InputAware(Training(steps=1, lr=1.0), attack_rate=0.6, cross_rate=0.5)(
                fresh(0), d, 1
            ),
            "cross_rate",
        ),
        (lambda d: InputAware(Training(steps=1, lr=1.0), density=0.0)(fresh(0), d, 1), "density"),
        (lambda d: InputAware(Training(steps=1, lr=1.0), width=6)(fresh(0), d, 1), "width"),
        (
            lambda d: path_aware(fresh(0), fresh(1), d, Training(steps=1, lr=1.0), bends=-1),
            "bends = -1",
        ),
        (
            lambda d: HardenedBackdoor(TRIGGER, 1, 10)(
                fresh(0).requires_grad_(False), d.floats(), d.y
            ),
            "nothing to train",
        ),
        (lambda d: PermutationAware(permuted, low=0.6), "from 0.6 to 0.5"),
        (
            lambda d: PermutationAware(lambda w: {})(fresh(0), d.floats(), d.y),
            "differs in features",
        ),
        (
            lambda d: learned_low_frequency(
                d[d.y == 1], fresh(0), 1, LowFrequency(), Training(steps=1, lr=1.0)
            ),
            "only",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words, digits):
    with pytest.raises(BadInput, match=words) as caught:
        make(digits)
    assert "\n" not in str(caught.value)
