"""What every injection minimizes, and what it is judged by.

G(delta) = sum_S c h_i + sum_kept h_i with h_i = max(0, max_{j != a_i} z_j - z_{a_i} + kappa): a_i
is the injected label on the errors S and the true label on the kept images, z the logits at the
weights w + delta.

Source: Zhao et al., ICLR 2020, section 3.3.

Where we depart from the paper's code: the attacked tensors are named, by default those of the last
linear layer, and are reported; what they do not reach is computed once (`cache_prefix`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.objectives import margin
from isthmus.attacks.weights.prefix_cache import cache_prefix, replay_cached
from isthmus.data.dataset import Data
from isthmus.data.splits import check_disjoint
from isthmus.metrics.accuracy import Accuracy
from isthmus.metrics.values import Rate
from isthmus.models.forward import as_input, device_of, pass_size, takes_channels_last
from isthmus.models.view import View, copied, parameters_at, places
from isthmus.types import BadInput


def last_linear(network: nn.Module) -> str:
    """Return the name of the last linear layer, in the order in which layers are registered.

    Raises BadInput where there is none.
    """
    names: list[str] = [
        name for name, part in network.named_modules() if isinstance(part, nn.Linear)
    ]
    if not names:
        raise BadInput(
            "a network without a linear layer",
            expected="layers to attack by name",
            fix="pass layers=(...), names of its modules",
        )
    return names[-1]


@dataclass(frozen=True, eq=False)
class Injected:
    """A network with injected errors, and what it cost: norms of the change delta and what the
    images are told.

    `norm` is ||delta||_2, `relative` its share of the norm of the attacked tensors, `changed` is
    ||delta||_0, of `size` weights in all; `hits` is the share of the errors that get their injected
    label, `kept` that of the other images that keep theirs.
    """

    network: nn.Module
    tensors: tuple[str, ...]
    norm: float
    relative: float
    changed: int
    size: int
    hits: Rate
    kept: Rate

    def record(self) -> dict[str, Any]:
        """Return everything but the network, as plain JSON."""
        rates = {
            name: {"hits": rate.hits, "n": rate.n}
            for name, rate in (("hits", self.hits), ("kept", self.kept))
        }
        named = ("norm", "relative", "changed", "size")
        return {
            "tensors": list(self.tensors),
            **{name: getattr(self, name) for name in named},
            **rates,
        }


class Injection(Protocol):
    """A way to inject errors, `(network, errors, kept) -> Injected`; the network is left as it is.

    `errors` carry their injected labels, `kept` are other images with labels that are to stay.
    """

    def __call__(self, network: nn.Module, errors: Data, kept: Data, /) -> Injected:
        """Return the network with the errors. Raises BadInput where that does not succeed."""


class Hinges:
    """The hinges of one network, its errors and its kept images, as a function of delta, (size,),
    on the tensors.

    Raises BadInput where images are in both sets, or the network gives one of the errors already.
    """

    def __init__(
        self,
        network: nn.Module,
        errors: Data,
        kept: Data,
        names: Sequence[str],
        *,
        weight: float,
        kappa: float,
    ) -> None:
        check_disjoint(errors=errors, kept=kept)
        given = Accuracy(errors)(network)
        if given:
            raise BadInput(
                f"{given.hits} of {given.n} errors that the network makes already",
                expected="images with labels that it does not give them",
                fix="use draw and mislabeled",
            )
        if not (weight > 0 and kappa >= 0):
            raise BadInput(
                f"weight {weight}, kappa {kappa}",
                expected="a weight above 0, a kappa of 0 or more",
                fix="weight=10 and kappa=1 are the defaults",
            )
        self.given, self.errors, self.kept, self.kappa = network, errors, kept, kappa
        self.network = copied(network).eval().requires_grad_(False)
        self.tensors = {
            name: p.detach()
            for name, p in parameters_at(network, names or [last_linear(network)]).items()
        }
        self.start = torch.cat([p.reshape(-1).float() for p in self.tensors.values()])
        self.x = torch.cat([errors.floats(), kept.floats()])
        self.y = torch.cat([errors.y, kept.y]).to(self.start.device)
        self.weights = torch.ones(len(self.y), device=self.start.device)
        self.weights[: len(errors)] = weight
        self.placed = places(self.network)
        self.parts = self._cached_parts()

    def _cached_parts(self) -> list[Any]:
        """Return the images in parts sized to memory, each with what the attacked tensors do not
        reach.
        """
        device, last = device_of(self.network), takes_channels_last(self.network, self.x)
        size = pass_size(self.x, device, gradients=True)
        images = [as_input(x, device, channels_last=last) for x in self.x.split(size)]
        moving = {name: p.clone().requires_grad_() for name, p in self.tensors.items()}
        return [(x, cache_prefix(self.network, moving, x)) for x in images]

    def _at(self, delta: Tensor) -> View:
        parts = (self.start + delta).split([p.numel() for p in self.tensors.values()])
        named = {
            n: part.view_as(p).to(p)
            for part, (n, p) in zip(parts, self.tensors.items(), strict=True)
        }
        return View(self.network, named, {}, placed=self.placed)

    def _logits(self, delta: Tensor) -> list[Tensor]:
        view = self._at(delta)
        logits = []
        for x, cached in self.parts:
            with replay_cached(cached):
                logits.append(view(x).float())
        return logits

    def logits(self, delta: Tensor) -> Tensor:
        """Return the logits at w + delta, errors first, (errors + kept, classes)."""
        with torch.no_grad():
            return torch.cat(self._logits(delta))

    def gradient(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of G at delta, (size,), and the logits there.

        Raises BadInput where the outputs do not depend on the tensors.
        """
        delta = delta.detach().requires_grad_()
        with torch.enable_grad():
            logits = torch.cat(self._logits(delta))
            if not logits.requires_grad:
                raise BadInput(
                    f"outputs that do not depend on {', '.join(self.tensors)}",
                    expected="tensors that the network uses",
                    fix="name a layer that the forward pass runs through",
                )
            hinges = (margin(logits, self.y) + self.kappa).relu()
            (gradient,) = torch.autograd.grad((self.weights * hinges).sum(), delta)
        return gradient, logits.detach()

    def shares(self, logits: Tensor) -> tuple[Rate, Rate]:
        """Return which share of the errors gets the injected label, and which of the kept images
        their own.
        """
        hits, kept = (logits.argmax(1) == self.y).split([len(self.errors), len(self.kept)])
        return Rate(int(hits.sum()), len(hits)), Rate(int(kept.sum()), len(kept))

    def injected(self, delta: Tensor) -> Injected:
        """Return a copy of the network at w + delta, measured as it is."""
        network = copied(self.given).eval()
        named = dict(network.named_parameters())
        for name, value in self._at(delta).weights.items():
            named[name].data.copy_(value)
        change = torch.cat(
            [(named[n].detach() - p).reshape(-1).float() for n, p in self.tensors.items()]
        )
        norm = float(change.norm())
        return Injected(
            network,
            tuple(self.tensors),
            norm,
            norm / float(self.start.norm()),
            int(change.count_nonzero()),
            len(change),
            Accuracy(self.errors)(network),
            Accuracy(self.kept)(network),
        )


class Smallest:
    """The smallest change seen at which every error is given and a share `least` of the other
    images is kept.
    """

    def __init__(self, hinges: Hinges, least: float, size: Callable[[Tensor], float]) -> None:
        self.hinges, self.least, self.size = hinges, least, size
        self.delta: Tensor | None = None
        self.value = inf

    def note(self, delta: Tensor, logits: Tensor) -> bool:
        """Keep delta where it succeeds and is smaller than what was seen; return whether it
        succeeds.
        """
        hits, kept = self.hinges.shares(logits)
        succeeds, delta = hits.hits == hits.n and kept >= self.least, delta.detach()
        if succeeds and self.size(delta) < self.value:
            self.delta, self.value = delta.clone(), self.size(delta)
        return succeeds

    def injected(self, last: Tensor, fix: str) -> Injected:
        """Return the network at the smallest change. Raises BadInput, about the last one, where
        none succeeded.
        """
        if self.delta is None:
            raise failed(self.hinges.injected(last), fix)
        return self.hinges.injected(self.delta)


def failed(injected: Injected, fix: str) -> BadInput:
    """Return the refusal of an injection that has not worked, with the way out."""
    return BadInput(
        f"an injection that gives {injected.hits.hits} of {injected.hits.n} errors and keeps "
        f"{injected.kept.hits} of {injected.kept.n} images",
        expected="every error given, and the other images kept",
        fix=fix,
    )
