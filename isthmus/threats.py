"""Attackers who do more than poison a set. They return an ordinary network, and the trigger where it is learned.

Source: Turner et al., Label-consistent backdoor attacks, 2019; Nguyen and Tran, Input-aware dynamic backdoor attack,
NeurIPS 2020; Zeng et al., ICCV 2021 (low frequencies); Zhao et al., ICLR 2020, appendix J (the path-aware attacker);
Gan et al., Towards robust model watermark via reducing parametric vulnerability, ICCV 2023. The attacker who knows the
self-permutation answers Peng et al. (TSC), ICML 2025, and is ours.

Where we depart: said at each attacker, and listed in docs/threats.md. Attackers who train do so with `fit`, so steps,
seed and device are the options that a defender has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, cast

import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor, nn

from isthmus.batchnorm import batchnorm_layers, recalibrate
from isthmus.curve import Bezier, expected_over_t
from isthmus.data import Data, Source, as_data
from isthmus.engine import as_input, device_of, eval_mode, outputs, takes_channels_last
from isthmus.losses import cross_entropy, norm_of
from isthmus.metrics import AttackSuccess, Rate
from isthmus.train import Training, fit
from isthmus.triggers import LowFrequency, Target, eligible, poison, target_of
from isthmus.triggers.low_frequency import Norm, scaled, smooth
from isthmus.types import Attack, BadInput, Loss, Params, Trigger, percent, sha256_of
from isthmus.view import View


def planted(network: nn.Module, data: Source, trigger: Trigger, target: Target, *, least: float = 0.9) -> Rate:
    """Return the attack success on evaluation data; refuse an attack that has not worked, before a repair starts.

    The same question to a network that was never poisoned gives the floor of the trigger. Raises BadInput where the
    attack succeeds on a smaller share than `least`.
    """
    success = AttackSuccess(data, trigger, target)(network)
    if success < least:
        raise BadInput(
            f"an attack that succeeds on {success.hits} of {success.n} samples",
            expected=f"{percent(least)} or more",
            fix="train longer, raise the poison rate, or make the trigger stronger",
        )
    return success


# ── sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def label_consistent(
    train: Data,
    network: nn.Module,
    trigger: Trigger,
    *,
    target: int,
    rate: float,
    attack: Attack,
    generator: torch.Generator,
    batch_size: int = 256,
) -> Data:
    """Return the training set with a share `rate` of the target class made hard and triggered; every label stays.

    Source: Turner et al., 2019. `attack` makes the images hard against `network`, a clean one: the trigger is then the
    easier thing to learn. Where we depart: the attack is whatever is passed (the paper: PGD on an adversarially
    trained network), and the trigger is not faded or repeated in the corners. The network and the global random state
    are left as they are. Raises BadInput as `poison` does.
    """

    def hard_then_triggered(x: Tensor) -> Tensor:
        device, last = device_of(network), takes_channels_last(network, x)
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(), eval_mode(network):
            torch.manual_seed(seed)
            parts = [as_input(part, device, channels_last=last) for part in x.split(batch_size)]
            labels = [torch.full((len(part),), target, device=device) for part in parts]
            hard = [attack(network, part, y).detach().to(x) for part, y in zip(parts, labels, strict=True)]
        return trigger(torch.cat(hard))

    return poison(train, hard_then_triggered, rate=rate, target=target, generator=generator, clean_label=True)


class _Universal(nn.Module):
    """A smooth pattern to be learned, and the network that it is learned against, which stays as it is."""

    def __init__(self, network: nn.Module, coefficients: Tensor, size: float, norm: Norm) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.coefficients = nn.Parameter(coefficients)
        self.size, self.norm = size, norm

    def forward(self, x: Tensor) -> Tensor:
        with eval_mode(self.network):
            return cast(Tensor, self.network((x + self.pattern(*x.shape[-2:])).clamp(0, 1)))

    def pattern(self, height: int, width: int) -> Tensor:
        return scaled(smooth(self.coefficients, height, width), self.size, self.norm)


def learned_low_frequency(
    train: Data, network: nn.Module, target: int, start: LowFrequency, training: Training
) -> LowFrequency:
    """Return the low-frequency trigger that best sends images to the target class of `network`, from `start` on.

    Source: Zeng et al., ICCV 2021. Where we depart: one universal pattern is searched by Adam in the lowest
    `start.cutoff` cosines and brought to `start.size` at every step, in place of DeepFool steps that are filtered
    afterwards; the search is targeted. The network is left as it is. Raises BadInput as `fit` does, or where no sample
    is outside the target class.
    """
    channels, height, width = train.x.shape[1:]
    index = eligible(train, target)
    if not len(index):
        raise BadInput("only samples of the target class", expected="some of another", fix="choose another target")
    generator = torch.Generator().manual_seed(start.seed)
    drawn = torch.randn(channels, start.cutoff, start.cutoff, generator=generator)
    search = _Universal(network, drawn, start.size, start.norm)
    sent = Data(train.x[index], target_of(train.y[index], target, train.num_classes), train.classes)
    fit(search, sent, optimizer=torch.optim.Adam, **training)
    with torch.no_grad():
        return LowFrequency(start.size, start.cutoff, start.norm, start.seed, search.pattern(height, width).cpu())


# ── a trigger of its own for every image ──────────────────────────────────────────────────────────────────────────────


def _painter(channels: int, out: int, width: int) -> nn.Sequential:
    """A small network from images to pictures of at least their size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, out, 3, padding=1),
    )


_SOFTNESS = 0.1  # of a mask's edge, in standard deviations of what it is cut from


class _Injector(nn.Module):
    """Paints the pattern of an image, at the places of its mask, on this image or on another one."""

    def __init__(self, channels: int, density: float, width: int) -> None:
        super().__init__()
        self.pattern, self.mask = (_painter(channels, out, width) for out in (channels, 1))
        self.density = density

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pattern (n, c, h, w) and the mask (n, 1, h, w) of each image, both in [0, 1]."""
        height, width = x.shape[-2:]
        pattern, height_of = (net(x)[..., :height, :width] for net in (self.pattern, self.mask))
        flat = F.layer_norm(height_of.flatten(1).float(), (height * width,))
        edge = flat.quantile(1 - self.density, dim=1, keepdim=True)
        return pattern.sigmoid(), ((flat - edge) / _SOFTNESS).sigmoid().view_as(height_of)

    def forward(self, x: Tensor, of: Tensor | None = None) -> Tensor:
        return _painted(x, *self.parts(x if of is None else of))


def _painted(x: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """Return the images with the patterns at the places of the masks."""
    return torch.lerp(x.to(pattern), pattern, mask.to(pattern)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class GeneratedTrigger:
    """A trigger that a network (n, c, h, w) -> (n, c, h, w) paints, another for every image."""

    network: nn.Module = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the images with their triggers, without gradients."""
        return outputs(self.network, x).to(x)

    @property
    def sha256(self) -> str:
        """Hash of the network's weights."""
        return sha256_of(*self.network.state_dict().values())


class _Joint(nn.Module):
    def __init__(self, classifier: nn.Module, injector: _Injector) -> None:
        super().__init__()
        self.classifier, self.injector = classifier, injector

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(x))


@dataclass(frozen=True)
class InputAware:
    """Train a classifier together with a network that paints each image its own trigger.

    Source: Nguyen and Tran, NeurIPS 2020. In every batch a share `attack_rate` carries its own trigger and the target
    label, and a share `cross_rate` the trigger of another image and its own label, so that a trigger works on its
    image alone. Triggers of different images are kept apart by `diversity` times the ratio of the images' distance to
    that of their patterns, and to that of their masks.

    Where we depart: mask, pattern and classifier are trained in one run by one optimiser (the paper trains the mask
    first and uses two optimisers). A mask is cut, softly, at the quantile that leaves it the share `density` of the
    pixels, where the paper penalises larger masks: a penalty in one run shrinks them to nothing (measured on the
    digits). Both painters are networks of three convolutions, of `width` channels
    (a multiple of four).
    """

    training: Training
    attack_rate: float = 0.1
    cross_rate: float = 0.1
    diversity: float = 1.0
    density: float = 0.032
    width: int = 32

    def __call__(self, network: nn.Module, train: Source, target: Target) -> tuple[nn.Module, GeneratedTrigger]:
        """Return a trained copy of the network, and its trigger. Raises BadInput where a setting is out of range."""
        data = as_data(train)
        self._check()
        with torch.random.fork_rng():
            torch.manual_seed(self.training.get("seed", 0))
            joint = _Joint(copy.deepcopy(network), _Injector(data.x.shape[1], self.density, self.width))
        fit(joint, data, partial(self.loss, target=target, classes=data.num_classes), **self.training)
        return joint.classifier, GeneratedTrigger(joint.injector)

    def _check(self) -> None:
        if min(self.attack_rate, self.cross_rate) <= 0 or self.attack_rate + self.cross_rate >= 1:
            raise BadInput(
                f"attack_rate {self.attack_rate}, cross_rate {self.cross_rate}",
                expected="two shares above zero, together below one",
                fix="lower them",
            )
        if not 0 < self.density < 1 or self.width < 4 or self.width % 4:
            raise BadInput(
                f"density {self.density}, width {self.width}",
                expected="0 < density < 1, and a multiple of four",
                fix="choose them",
            )

    def loss(self, joint: Any, x: Tensor, y: Tensor, *, target: Target, classes: int) -> Tensor:
        """Return what classifier, pattern and mask are trained on together, for one batch of two samples or more."""
        attacked = ceil(self.attack_rate * len(x))
        painted = attacked + ceil(self.cross_rate * len(x))
        own, other = x[:painted], x.roll(1, 0)[:painted]
        patterns, masks = parts = joint.injector.parts(own)
        foreign = joint.injector.parts(other)
        bad = _painted(own[:attacked], patterns[:attacked], masks[:attacked])
        crossed = _painted(own[attacked:], *(part[attacked:] for part in foreign))
        labels = torch.cat([target_of(y[:attacked], target, classes), y[attacked:]])
        value = cross_entropy(joint.classifier, torch.cat([bad, crossed, x[painted:].to(bad)]), labels)
        images = (own - other).flatten(1).norm(dim=1)
        for mine, theirs in zip(parts, foreign, strict=True):
            apart = (mine - theirs).flatten(1).norm(dim=1)
            value = value + self.diversity * (images / (apart + 1e-3)).mean()
        return value


# ── attackers of the path ─────────────────────────────────────────────────────────────────────────────────────────────


class _FreePath(Bezier):
    """A Bezier curve whose control points are all trained: the bends; the fixed ends have no share in it."""

    def coefficients(self, t: float | Tensor) -> Tensor:
        bends = len(self.bends)
        bernstein = torch.from_numpy(binom.pmf(range(bends), bends - 1, float(t)))
        return torch.cat([torch.zeros(1), bernstein, torch.zeros(1)])


def path_aware(
    start: nn.Module,
    end: nn.Module,
    poisoned: Source,
    training: Training,
    *,
    bends: int = 1,
    loss: Loss = cross_entropy,
) -> tuple[nn.Module, nn.Module]:
    """Return two networks that were trained together with the whole path between them on the poisoned set.

    Source: Zhao et al., ICLR 2020, appendix J: both ends and the bend are trained on E_t of the loss, and the ends are
    released. Where we depart: `start` and `end` are where training begins, so they may be fresh or trained networks;
    the weight decay of `training` acts on the point of the path, as it does for a defender. BatchNorm is that of the
    poisoned set. Neither network given is changed. Raises BadInput as `Curve` and `fit` do, or where bends < 0.
    """
    if bends < 0:
        raise BadInput(f"bends = {bends}", expected="0 or more interior control points", fix="pass bends=1")
    data, options = as_data(poisoned), copy.copy(training)
    path = _FreePath(start, end, bends=bends + 2)
    with torch.no_grad():
        path.bends.copy_(
            torch.lerp(path.ends[:1], path.ends[1:], torch.linspace(0, 1, bends + 2).to(path.ends)[:, None])
        )
    fit(path, data, expected_over_t(loss, options.pop("weight_decay", 0.0)), **options)
    first, second = (recalibrate(path.export(t), data) for t in (0.0, 1.0))
    return first, second


def _moved(net: nn.Module, weights: Params) -> View:
    """Return the network under other weights, with buffers of its own."""
    buffers = {name: buffer.detach().clone() for name, buffer in net.named_buffers()}
    return View(net, weights, buffers, scratch=buffers)


@contextmanager
def _normalised_by(net: nn.Module, clean: int) -> Iterator[None]:
    """Let every BatchNorm that keeps statistics normalise a batch by its first samples alone, differentiably."""
    layers = batchnorm_layers(net)
    for layer in layers:
        layer.forward = partial(_by_first, layer, clean)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _by_first(layer: nn.modules.batchnorm._BatchNorm, clean: int, x: Tensor) -> Tensor:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide[:clean], axes, correction=0, keepdim=True)
    out = (wide - mean) * (variance + layer.eps).rsqrt()
    if layer.affine:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    return out.to(x.dtype)


def _weights(model: nn.Module) -> Params:
    """Return the model's parameters. Raises BadInput where none of them trains."""
    found: Params = dict(model.named_parameters())
    if not any(p.requires_grad for p in found.values()):
        raise BadInput(
            f"a {type(model).__name__} with nothing to train",
            expected="a network whose parameters require gradients",
            fix="train a network with this loss, not a curve",
        )
    return found


@dataclass(frozen=True)
class Hardened:
    """A loss for `fit` on clean data: L_clean(w) + weight max_{|d| <= gamma |w|} L_trigger(w + d).

    Source: Gan et al., ICCV 2023; specification, section 11. The maximum is one ascent step, d = gamma |w| g / |g| with
    g the gradient of L_trigger at w. L_trigger is the cross-entropy of the batch's eligible samples, triggered, with
    the attacker's labels; their BatchNorm statistics are those of the clean batch at the same weights, as in the paper.

    Where we depart: |w| is the norm of all trainable weights (specification); gradients flow through the
    statistics, for with statistics that are held the weights before BatchNorm grow without an answer from them, until
    training breaks; dropout is off in the triggered passes. A step costs about five of plain training where there is
    BatchNorm.

    >>> from isthmus.triggers import Patch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> loss = Hardened(Patch(), 1, classes=2)
    >>> loss(net, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])).ndim
    0
    """

    trigger: Trigger
    target: Target
    classes: int
    weight: float = 1.0
    gamma: float = 0.02

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss. Raises BadInput where nothing of the model trains."""
        weights = _weights(model)
        clean = cross_entropy(model, x, y)
        wanted = target_of(y, self.target, self.classes)
        asked = wanted != y
        if not asked.any():
            return clean
        triggered, wanted = self.trigger(x[asked]), wanted[asked]

        first = x if batchnorm_layers(model) else x[:0]  # whose statistics normalise the triggered samples
        both = torch.cat([first.to(triggered), triggered])

        def attacked(at: Params) -> Tensor:
            view = _moved(model, at)
            with eval_mode(view), _normalised_by(view.net, len(first)):
                return cross_entropy(nn.Identity(), view(both)[len(first) :], wanted)

        moving = {name: p for name, p in weights.items() if p.requires_grad}
        found = torch.autograd.grad(attacked(weights), list(moving.values()), allow_unused=True)
        ascent = {name: g for name, g in zip(moving, found, strict=True) if g is not None}
        scale = self.gamma * norm_of(moving) / norm_of(ascent)
        moved = {name: p + (scale * ascent[name]).to(p) if name in ascent else p for name, p in weights.items()}
        return clean + self.weight * attacked(moved)


@dataclass(frozen=True)
class PermutationAware:
    """A loss for `fit` on poisoned data, of an attacker who knows that the defender will permute the network.

    L(w) + weight E_{a ~ U(low, high)} L((1 - a) w + a P(w)): the backdoor is also trained between w and its permuted
    copy, where the defender's curve starts out. `permuted` maps the parameters by name to those of a copy that computes
    the same function; it must be differentiable (indexing is) and may draw another permutation at each call from the
    global generator: a defender's secret draw, or the known one. BatchNorm runs in train mode at the point between,
    on its own statistics: the recalibration that a defender does.

    Source: ours; it answers the self-permutation of Peng et al. (TSC), ICML 2025. It does not know the bend that the
    defender will train, and works on the straight segment.
    """

    permuted: Callable[[Params], Params]
    loss: Loss = cross_entropy
    weight: float = 1.0
    low: float = 0.0
    high: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise BadInput(f"a from {self.low} to {self.high}", expected="0 <= low <= high <= 1", fix="pass a range")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss. Raises BadInput where the copy does not match the network, or nothing of it trains."""
        own = _weights(model)
        copied = self.permuted(own)
        shapes = [{name: p.shape for name, p in each.items()} for each in (own, copied)]
        differing = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        if differing:
            raise BadInput(
                f"a permuted copy that differs in {differing[0]}",
                expected="the same names and shapes",
                fix="map them all",
            )
        a = self.low + (self.high - self.low) * float(torch.rand(()))
        between = {name: torch.lerp(p, copied[name], a) if p.is_floating_point() else p for name, p in own.items()}
        here: Tensor = self.loss(model, x, y)
        return here + self.weight * self.loss(_moved(model, between), x, y)
