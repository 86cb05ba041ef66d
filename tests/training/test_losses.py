import copy

import pytest
import torch
import torch.nn.functional as F
from support.networks import ZOO, data, network, pair
from support.refusals import refused

from isthmus import Bezier, Linf, expected_over_t, fit
from isthmus.attacks import PGD
from isthmus.runs.identity import identity_of
from isthmus.training import (
    adversarial,
    channel_lasso,
    cross_entropy,
    distillation,
    gradients_per_step,
    sharpness_aware,
    trade_off,
    trades,
)

pytestmark = pytest.mark.numeric

DRAWLESS = [
    kind
    for kind in ZOO
    if not any(isinstance(m, torch.nn.Dropout) for m in network(kind).modules())
]


def close(found, expected, kind):
    """The zoo's "mixed" has a layer in bf16, which has three digits."""
    rtol, atol = (5e-2, 2e-3) if kind == "mixed" else (1e-3, 1e-5)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def batch(n=16):
    samples = data(n)
    return samples.x, samples.y


def naive_gradient(net, x, y, rho, adaptive):
    """Sharpness-aware minimization on the network's own parameters: climb, take the gradient, climb
    down.
    """
    net = copy.deepcopy(net)
    params = [p for p in net.parameters() if p.requires_grad]
    buffers = [b.clone() for b in net.buffers()]
    F.cross_entropy(net(x), y).backward()
    for b, old in zip(net.buffers(), buffers, strict=True):
        b.data.copy_(old)
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
    sizes = [p.detach().abs() if adaptive else torch.ones_like(p) for p in params]
    norm = (
        sum(float((s * g).double().square().sum()) for s, g in zip(sizes, grads, strict=True))
        ** 0.5
    )
    with torch.no_grad():
        for p, s, g in zip(params, sizes, grads, strict=True):
            p += rho * s**2 * g / norm
            p.grad = None
    F.cross_entropy(net(x), y).backward()
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", DRAWLESS)
def test_the_gradient_is_the_one_at_the_perturbed_weights(kind, adaptive):
    net, (x, y) = network(kind), batch()
    net.train()
    expected = naive_gradient(net, x, y, 0.3, adaptive)
    params = [p for p in net.parameters() if p.requires_grad]
    loss = sharpness_aware(rho=0.3, adaptive=adaptive)
    found = torch.autograd.grad(loss(net, x, y), params, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        close(torch.zeros_like(theirs) if ours is None else ours, theirs, kind)


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_weights_stay_and_buffers_are_those_of_one_plain_pass(kind):
    net, (x, y) = network(kind), batch()
    net.train()
    plain = copy.deepcopy(net)
    torch.manual_seed(0)
    plain(x)
    torch.manual_seed(0)
    sharpness_aware(rho=1.0)(net, x, y)
    for ours, theirs in zip(net.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("kind", DRAWLESS)
def test_on_a_curve_the_perturbed_weights_are_those_of_the_point_not_the_bends(kind):
    curve, (x, y), t = Bezier(*pair(kind)), batch(), 0.3
    curve.train()
    net = curve.export(t).train()
    named = dict(net.named_parameters())
    found = torch.autograd.grad(sharpness_aware(rho=0.3)(curve.at(t), x, y), curve.bends)[0]
    grads = dict(
        zip(
            [n for n, p in named.items() if p.requires_grad],
            naive_gradient(net, x, y, 0.3, False),
            strict=True,
        )
    )
    expected = (
        2
        * t
        * (1 - t)
        * torch.cat([grads[name].reshape(-1).to(found) for name in curve._moving.names])
    )
    close(found[0], expected, kind)


def test_without_gradient_there_is_nowhere_to_climb():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    torch.nn.init.zeros_(net[1].weight)
    x, y = torch.zeros(4, 3, 8, 8), torch.arange(4)
    torch.nn.init.zeros_(net[1].bias)
    assert sharpness_aware(rho=1.0)(net, x, y).isfinite()


def test_training_finds_flatter_weights():
    """The loss at the worst weights nearby is lower after sharpness-aware training than after plain
    training.
    """
    nets, (x, y), worst = (
        [network("linear", seed=1) for _ in range(2)],
        batch(48),
        sharpness_aware(rho=2.0),
    )
    for net, loss in zip(nets, [cross_entropy, worst], strict=True):
        fit(net, data(), loss, steps=60, lr=0.02, precision="fp32")
    plain, flat = (worst(net, x, y).item() for net in nets)
    assert flat < plain


def test_a_curve_is_trained_sharpness_aware_in_one_line():
    curve = Bezier(*pair("batchnorm"))
    history = fit(curve, data(), expected_over_t(sharpness_aware(rho=0.1), 1e-4), steps=20, lr=0.1)
    assert len(history.losses) == 10


@pytest.mark.parametrize(
    "make", [lambda: network("groupnorm"), lambda: Bezier(*pair("groupnorm")).at(0.3)]
)
def test_at_perturbed_weights_the_attack_runs_once_and_both_passes_see_its_inputs(make):
    net, (x, y), met = make(), batch(), []

    def attack(model, x, y):
        met.append(model)
        return (x + 0.05).clamp(0, 1)

    value = sharpness_aware(adversarial(attack), rho=0.3)(net, x, y)
    assert met == [net]
    torch.testing.assert_close(value, sharpness_aware(rho=0.3)(net, (x + 0.05).clamp(0, 1), y))


def test_trades_at_perturbed_weights_is_refused():
    refused(lambda: sharpness_aware(trades(lambda model, x, y: x), rho=0.3), "TRADES", "rho = 0")


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan")])
def test_a_radius_of_nothing_is_refused(rho):
    refused(lambda: sharpness_aware(rho=rho), "rho = ")


def naive_distillation(student, teacher, x, temperature):
    """T^2 sum p log(p / q), sample by sample, in float64."""
    teacher = copy.deepcopy(teacher).eval()
    with torch.no_grad():
        wanted = (teacher(x).double() / temperature).softmax(1)
    given = (student(x).double() / temperature).softmax(1)
    return temperature**2 * (wanted * (wanted / given).log()).sum(1).mean()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_naive_divergence_and_reads_no_label(temperature):
    student, teacher = pair("batchnorm")
    x, y = batch()
    loss = distillation(teacher, temperature)
    twin = naive_distillation(copy.deepcopy(student), teacher, x, temperature)
    torch.testing.assert_close(loss(student, x, y).double(), twin, rtol=1e-4, atol=1e-6)
    assert loss(student, x, y) == loss(student, x, (y + 1) % 3) >= 0


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    teacher, _ = pair("batchnorm")
    loss = distillation(teacher)
    student = copy.deepcopy(teacher).eval()
    value = loss(student, *batch())
    value.backward()
    assert abs(value.item()) < 1e-6
    assert all(p.grad.abs().max() < 1e-5 for p in student.parameters() if p.grad is not None)


def test_a_teacher_is_what_distillation_is_recognized_by_and_is_left_alone():
    first, second = pair("batchnorm")
    before = copy.deepcopy(first.state_dict())
    assert identity_of(distillation(first)) == identity_of(distillation(copy.deepcopy(first)))
    assert identity_of(distillation(first)) != identity_of(distillation(second))
    fit(second, data(16), distillation(first), steps=3, lr=0.1)
    torch.testing.assert_close(first.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    refused(lambda: distillation(network("batchnorm"), temperature), "temperature")


PGD_3 = PGD(Linf(0.1), steps=3)
COUNTED = {
    "cross-entropy": (cross_entropy, 1),
    "adversarial": (adversarial(PGD_3), 4),
    "trades": (trades(PGD_3), 5),
    "trade-off": (trade_off(PGD_3), 5),
    "trade-off without clean inputs": (trade_off(PGD_3, 0, 1), 4),
    "channel lasso": (channel_lasso(adversarial(PGD_3), 0.1), 4),
    "sharpness-aware": (sharpness_aware(), 2),
    "adversarial, sharpness-aware": (sharpness_aware(adversarial(PGD_3)), 5),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_loss_says_how_many_gradients_a_step_takes(name):
    loss, count = COUNTED[name]
    assert gradients_per_step(loss) == gradients_per_step(expected_over_t(loss)) == count
    net, passes = network("batchnorm"), []
    net.register_forward_hook(lambda *_: passes.append(1))
    loss(net, data().x, data().y).backward()
    assert len(passes) == count  # each pass has a gradient
