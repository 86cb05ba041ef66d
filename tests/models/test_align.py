"""Permutation symmetry: a permuted network is the same function, and alignment finds back what was
permuted.
"""

import copy
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from support.networks import AROUND, ZOO, Around, Function, data, network
from support.refusals import refused
from torch import nn

from isthmus import models
from isthmus.models import (
    align,
    check_same_function,
    identity,
    inverse,
    match_activations,
    match_weights,
    permutation_groups,
    permute,
    permuted_copy,
    permuted_weights,
    random_permutations,
)
from isthmus.models.channels.matching import _assignment, correlations

pytestmark = pytest.mark.numeric


def heads(self, x):
    """Attention with two heads by hand, as vision transformers write it, and an MLP with a gate."""
    h = self.patches(x).flatten(2).mT
    n, tokens, width = h.shape
    q, k, v = (
        self.qkv(self.norm(h)).reshape(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
    )
    h = h + self.out(
        F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
    )
    return self.head((h + self.down(F.glu(self.up(h), -1))).mean(1))


def dense(self, x):
    """Every layer reads all that came before it, the image included."""
    h = torch.cat([x, self.a(x)], 1)
    h = torch.cat([h, self.b(F.relu(self.norm(h)))], 1)
    return self.head(h.flatten(1))


def padded(self, x):
    """A shortcut without weights: every second pixel, and zeros for the channels that are new."""
    h = self.a(x)
    h = F.relu(self.norm(self.b(h))) + F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


def mixer(self, x):
    """One layer mixes tokens, the next channels."""
    h = self.patches(x).flatten(2).mT
    h = h + self.tokens(h.mT).mT
    return self.head((h + self.channels(h)).mean(1))


class Chooses(nn.Module):
    """Which layer it takes depends on what it gets."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, h):
        return self.low(h) if h.mean() < 0 else self.high(h)


def chooses(self, x):
    return self.head(F.relu(self.after(self.choice(self.down(x.flatten(1))))))


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.BatchNorm2d(12),
        nn.Hardswish(inplace=True),
        nn.Conv2d(12, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.GroupNorm(4, 8),
        nn.PReLU(8),
        nn.Conv2d(8, 6, 1),
        nn.InstanceNorm2d(6, affine=True),
        nn.ConvTranspose2d(6, 5, 2),
        nn.Upsample(scale_factor=2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(125, 6),
        nn.Softmax(1),
        nn.Linear(6, 4),
    )


def same():
    """Padding by a layer of its own in front of depthwise convolutions, as TensorFlow has it."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(6, 6, 3, 2, groups=6),
        nn.BatchNorm2d(6),
        nn.ConstantPad2d((1, 2, 1, 0), 0.5),
        nn.Conv2d(6, 8, 1),
        nn.ZeroPad2d((-1, 1, 0, 0)),
        nn.ReLU(),
        nn.ConstantPad2d(1, 0.3),
        nn.Flatten(),
        nn.Linear(8 * 48, 4),
    )


def twice():
    """One convolution is used twice, so its two sides are one group."""
    conv = nn.Conv2d(6, 6, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), conv, nn.ReLU(), conv, nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    )


MORE = {
    "heads": lambda: Function(
        heads,
        patches=nn.Conv2d(3, 8, 4, 4),
        norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24),
        out=nn.Linear(8, 8),
        up=nn.Linear(8, 12),
        down=nn.Linear(6, 8),
        head=nn.Linear(8, 4),
    ),
    "dense": lambda: Function(
        dense,
        a=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(7),
        b=nn.Conv2d(7, 5, 3, padding=1),
        head=nn.Linear(768, 4),
    ),
    "padded": lambda: Function(
        padded,
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(4, 8, 1, 2),
        norm=nn.BatchNorm2d(8),
        head=nn.Linear(8, 4),
    ),
    "mixer": lambda: Function(
        mixer,
        patches=nn.Conv2d(3, 8, 4, 4),
        tokens=nn.Linear(4, 4),
        channels=nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8)),
        head=nn.Linear(8, 4),
    ),
    "chooses": lambda: Function(
        chooses,
        down=nn.Linear(192, 6),
        choice=Chooses(),
        after=nn.Linear(6, 5),
        head=nn.Linear(5, 4),
    ),
    "depthwise": depthwise,
    "grouped": grouped,
    "same": same,
    "twice": twice,
    "small_cnn": lambda: models.small_cnn(4, width=4),
    "mlp": lambda: models.mlp(4, size=8, hidden=(10, 7)),
    "preact": lambda: models.preact_resnet(8, 4, width=4),
    "wide": lambda: models.wide_resnet(10, 1, 4),
}
ALL = [*ZOO, *MORE]
every_network = pytest.mark.parametrize("kind", ALL)
X = data(24).x


def make(kind, seed=0):
    if kind in ZOO:
        return network(kind, seed)
    torch.manual_seed(seed)
    net = MORE[kind]()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
        for _ in range(3):
            net(torch.rand(16, 3, 8, 8))
    return net.eval()


def draws(groups, seed=0):
    return random_permutations(groups, torch.Generator().manual_seed(seed))


def same_weights(a, b, **tolerance):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(
        torch.allclose(x.double(), y.double(), rtol=0, **({"atol": 0.0} | tolerance))
        for x, y in pairs
    )


@every_network
def test_a_permuted_network_is_the_same_function_with_other_weights(kind):
    net = make(kind)
    before = copy.deepcopy(net)
    groups = permutation_groups(net, X)
    for seed in (0, 1):
        permuted = permute(net, groups, draws(groups, seed), check=X)
        with torch.no_grad():
            assert torch.allclose(
                permuted(X), net(X), rtol=0, atol=1e-5 * float(net(X).abs().max()) + 1e-6
            )
        assert not len(groups) or not same_weights(permuted, net)
        assert not permuted.training and permuted.state_dict().keys() == net.state_dict().keys()
        assert same_weights(permute(permuted, groups, inverse(draws(groups, seed))), net), (
            "there and back"
        )
    assert same_weights(permute(net, groups, identity(groups)), net) and same_weights(net, before)


@every_network
def test_permuted_weights_are_the_permuted_networks_and_give_each_gradient_back_to_its_place(
    kind,
):
    net = make(kind)
    groups, weights = permutation_groups(net, X), dict(net.named_parameters())
    found = permuted_weights(weights, groups, draws(groups, 0))
    permuted = permute(net, groups, draws(groups, 0), check=X)
    assert all(torch.equal(found[name], p) for name, p in permuted.named_parameters())
    back = permuted_weights(found, groups, inverse(draws(groups, 0)))
    for name, p in weights.items():
        if p.requires_grad:
            (grad,) = torch.autograd.grad((back[name] * p.detach()).sum(), p, retain_graph=True)
            assert torch.equal(grad, p)


@every_network
def test_every_parameter_and_buffer_moves_at_each_of_its_axes_or_is_listed_with_a_reason(kind):
    net = make(kind)
    groups = permutation_groups(net, X)
    moved = {place.name for group in groups for place in group.places}
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        assert name in moved or groups.fixed.get(name) or tensor.numel() < 2, name
    assert all(reason for reason in groups.fixed.values())
    for group in groups:
        for place in group.places:
            assert (
                len(place.index) == group.size and len(place.index.unique()) == place.index.numel()
            )


def sizes(kind):
    return sorted(group.size for group in permutation_groups(make(kind), X))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", []),
        ("batchnorm", [6, 8]),
        ("groupnorm", [2, 2, 2]),  # within each group of channels that are normalized together
        (
            "attention",
            [2, 2, 8, 8, 16],
        ),  # heads, heads, the residual stream, a single head's width, the MLP
        ("weightnorm", [6]),
        ("lstm", []),
        ("heads", [2, 6, 8]),
        ("dense", [4, 5]),
        (
            "padded",
            [4, 4],
            # channels that pass the shortcut move with those they came from; new ones by themselves
        ),
        ("mixer", [6, 8]),
        ("chooses", [5]),
        ("depthwise", [6, 8]),
        ("same", [6, 8]),
        ("grouped", [2, 2, 2, 2, 5, 6, 6]),
        ("twice", [6]),
        ("small_cnn", [4, 4, 8, 8]),
        ("mlp", [7, 10]),
        ("preact", [4, 4, 8, 8, 16, 16]),
        ("wide", [16, 16, 32, 32, 64, 64]),
    ],
)
def test_the_groups_are_those_that_one_would_write_down(kind, expected):
    assert sizes(kind) == expected


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("lstm", "lstm.weight_hh_l0", "no rule"),
        ("chooses", "choice.low.weight", "values"),
        ("chooses", "choice.high.bias", "values"),
        ("mixer", "tokens.weight", "positions"),
        ("grouped", "1.weight", "grouped convolution"),
        ("mixed", "order", "whole numbers"),
        ("tied", "mirror.bias", "does not use"),
        ("linear", "1.weight", "input"),
        ("mlp", "head.bias", "outputs"),
    ],
)
def test_what_stays_is_listed_with_its_reason(kind, name, reason):
    assert reason in permutation_groups(make(kind), X).fixed[name]


def test_buffers_move_with_their_channels():
    net = make("small_cnn")
    groups = permutation_groups(net, X)
    permuted = permute(net, groups, draws(groups))
    first = draws(groups)[0]
    assert torch.equal(permuted.features[0][1].running_mean, net.features[0][1].running_mean[first])
    assert torch.equal(permuted.features[0][1].running_var, net.features[0][1].running_var[first])


def test_flattened_pixels_move_in_blocks_and_heads_as_a_whole():
    blocks = {
        place.name: place.index
        for group in permutation_groups(make("batchnorm"), X)
        for place in group.places
    }
    assert torch.equal(blocks["9.weight"], torch.arange(128).view(8, 16))
    head = next(group for group in permutation_groups(make("heads"), X) if group.size == 2)
    index = {place.name: {frozenset(row) for row in place.index.tolist()} for place in head.places}
    assert index["out.weight"] == {frozenset(range(4)), frozenset(range(4, 8))}
    assert frozenset([*range(4), *range(8, 12), *range(16, 20)]) in index["qkv.weight"]


@pytest.mark.parametrize("least", [False, True])
def test_the_assignment_is_the_best_of_all(least):
    gain = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    all_of_them = [sum(float(gain[i, p[i]]) for i in range(5)) for p in permutations(range(5))]
    found = sum(float(gain[i, j]) for i, j in enumerate(_assignment(gain, least=least).tolist()))
    assert found == pytest.approx((min if least else max)(all_of_them))


def test_matching_by_weights_is_the_best_of_all_for_one_layer():
    """Naive twin: every permutation tried on a network with one hidden layer."""
    one, other = (models.mlp(4, size=8, hidden=(5,)) for _ in range(2))
    groups = permutation_groups(other, X)

    def distance(p):
        permuted = permute(other, groups, [torch.tensor(p)])
        pairs = zip(one.state_dict().values(), permuted.state_dict().values(), strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs)

    found = match_weights(one, other, groups)
    assert distance(found[0].tolist()) == pytest.approx(
        min(distance(p) for p in permutations(range(5))), rel=1e-5
    )


def test_correlations_are_those_of_all_activations_kept():
    """Naive twin: numpy's correlation of what the second layer reads, for pixels as samples; and in
    many batches.
    """
    one, other = make("small_cnn", 1), make("small_cnn", 2)
    groups, many = permutation_groups(one, X), data(700)
    found = correlations(one, other, many, groups)[0]
    with torch.no_grad():
        acts = [
            net.features[0](net.normalize(many.x)).transpose(0, 1).flatten(1)
            for net in (one, other)
        ]
    expected = torch.corrcoef(torch.cat(acts))[:4, 4:].nan_to_num(0.0)
    assert torch.allclose(found.float(), expected, atol=1e-4)


RECOVERED = [
    "batchnorm",
    "layernorm",
    "groupnorm",
    "dropout",
    "heads",
    "dense",
    "padded",
    "depthwise",
    "twice",
    "preact",
]


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("kind", [*RECOVERED, "small_cnn", "mlp"])
def test_alignment_to_a_permuted_copy_of_itself_finds_the_weights_back(kind, by):
    net = make(kind)
    moved = permuted_copy(net, data(64), how="random", seed=5)
    found = align(net, moved.model, data(64), by=by)
    assert same_weights(found.model, net)
    assert moved.difference < 1e-4 and moved.moved > 0 and found.fixed == moved.fixed


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_channels_move_alike_whatever_the_logits_are_returned_in(around):
    body = make("small_cnn")
    net = Around(body, around)
    found, expected = permutation_groups(net, X), permutation_groups(body, X)
    assert found.made == expected.made
    assert [group.size for group in found] == [group.size for group in expected]
    moved = permuted_copy(net, data(64), how="random", seed=5)
    assert same_weights(align(net, moved.model, data(64)).model, net)
    check_same_function(net, moved.model, X, tolerance=1e-9)  # finer than single precision


def test_the_least_correlated_copy_is_farther_than_a_random_one():
    net = make("small_cnn")
    groups = permutation_groups(net, X)
    own = correlations(net, net, data(), groups)

    def total(found):
        return sum(float(c.gather(1, p[:, None]).sum()) for c, p in zip(own, found, strict=True))

    far, near = (
        match_activations(net, net, data(), groups, least=least) for least in (True, False)
    )
    assert total(far) < min(total(draws(groups, seed)) for seed in range(20)) < total(near) + 1e-9
    copied = permuted_copy(net, data())
    assert copied.moved > 0.8 and not same_weights(copied.model, net)
    assert all(torch.equal(a, b) for a, b in zip(copied.permutations, far, strict=True))


def test_nothing_of_the_callers_is_changed_and_the_same_call_gives_the_same():
    one, other = make("preact", 1), make("preact", 2).train()
    state, before = torch.get_rng_state(), copy.deepcopy(other)
    first, second = (align(one, other, data(), by="weights", seed=3) for _ in range(2))
    permuted_copy(other, data(), how="random")
    assert torch.equal(torch.get_rng_state(), state)
    assert other.training and same_weights(other, before)
    assert same_weights(first.model, second.model)


def test_a_network_that_only_looks_the_same_is_told_apart():
    net = make("mlp")
    other = copy.deepcopy(net)
    assert check_same_function(net, other, X) == 0
    with torch.no_grad():
        other.head.bias[0] += 1e-3 * float(net(X).abs().max())
    refused(lambda: check_same_function(net, other, X), "differ")
    with torch.no_grad():
        other.head.bias.fill_(float("nan"))
    refused(lambda: check_same_function(net, other, X), "differ")


class ReadsItself(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_what_cannot_be_done_is_refused():
    net = make("mlp")
    groups = permutation_groups(net, X)
    good = identity(groups)
    refused(lambda: permutation_groups(net, X[0]), "(3, 8, 8)")
    refused(lambda: permutation_groups(net, X[..., :4]), "cannot be followed")
    refused(lambda: permutation_groups(ReadsItself(), X), "reads the value")
    refused(lambda: permute(net, groups, good[:1]), "channels")
    refused(lambda: permute(net, groups, [good[1], good[0]]), "channels")
    refused(lambda: permute(net, groups, [torch.zeros(10, dtype=torch.int64), good[1]]), "group 0")
    refused(lambda: permute(make("batchnorm"), groups, good), "without")
    refused(lambda: align(make("batchnorm"), net, data()), "architecture")
    refused(lambda: align(net, net, data(), by="age"), "age")
    refused(lambda: permuted_copy(net, data(), how="far"), "far")
    refused(lambda: permuted_copy(make("linear"), data()), "cannot be permuted")
    wrong = permutation_groups(make("twice"), X)
    broken = type(wrong)((type(wrong.groups[0])(6, wrong.groups[0].places[:1]),), {}, wrong.example)
    refused(lambda: permute(make("twice"), broken, draws(broken)), "outputs differ")


@pytest.mark.parametrize(
    ("kind", "made"),
    [("batchnorm", (14, 14)), ("same", (20, 20)), ("linear", (0, 0)), ("twice", (12, 12))],
)
def test_the_channels_that_can_move_are_counted_among_those_that_layers_make(kind, made):
    groups = permutation_groups(make(kind), X)
    assert groups.made == made and groups.summary.startswith(f"{made[0]} of {made[1]} channels")


def test_channels_of_frozen_parameters_stay_in_a_copy_that_a_curve_leads_to():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    net[0].weight.requires_grad_(False)
    samples = (torch.rand(8, 1, 6, 6), torch.arange(8) % 3)
    copy = permuted_copy(net, samples, how="random").model
    assert torch.equal(copy[0].weight, net[0].weight)
    assert torch.equal(copy[0].bias, net[0].bias)
    assert not torch.equal(copy[2].weight, net[2].weight)
    net.requires_grad_(False)  # as a network is loaded for inference: nothing trains, all may move
    assert not torch.equal(permuted_copy(net, samples, how="random").model[0].weight, net[0].weight)
