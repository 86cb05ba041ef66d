"""Randomized smoothing: a certificate in l2 for any network, by counting its answers under noise.

Source: Cohen, Rosenfeld, Kolter, ICML 2019, Algorithm 1 (CERTIFY); for implicit networks Gao et
al., NeurIPS 2024 (each pass starts from the last fixed point). Where we depart: fixed points are
solved for to the usual tolerance whatever they start from, so that reuse changes the time and not
the answers, and their correlation need not be estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from isthmus.certification.certifier import check_labels, check_samples
from isthmus.data.balls import L2, Ball
from isthmus.models.forward import device_of, eval_mode, pass_size, precise_logits
from isthmus.models.zoo.implicit import reused
from isthmus.types import BadInput


@dataclass(frozen=True)
class Smoothing:
    """The radius within which the majority answer under noise of `sigma` is y, less eps.

    Each sample's radius is too large with probability `alpha` at most.

    The margin is that of the smoothed network, not of the network itself. It is -eps where the
    votes are too close to tell (abstention) and -inf where the majority is another class.
    `selection` draws choose the class, `samples` others count for it. Raises BadInput where a
    setting has no meaning.
    """

    sigma: float = 0.25
    samples: int = 1000
    alpha: float = 0.001
    selection: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        fits = self.sigma > 0 and 0 < self.alpha < 1 and min(self.samples, self.selection) >= 1
        if not fits:
            raise BadInput(
                f"sigma {self.sigma}, {self.samples} samples, alpha {self.alpha}",
                expected="sigma above 0, samples of 1 or more, alpha between 0 and 1",
                fix="leave them out: 0.25, 1000, 0.001",
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Return certified radius - eps of each sample. Raises BadInput for balls other than L2."""
        check_samples(x, y)
        if not isinstance(ball, L2):
            raise BadInput(
                f"{ball}",
                expected="an L2 ball",
                fix="pass L2(eps); l-inf of eps lies in l2 of eps times the root of the values",
            )
        radius, votes = self.radii(model, x)
        check_labels(y, votes.shape[1])
        wrong = votes.argmax(1) != y.cpu()
        return (radius - ball.eps).masked_fill(wrong & (radius > 0), -torch.inf)

    @torch.no_grad()
    def radii(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the l2 radius (n,) float64 within which the chosen class stays the majority, 0 for
        abstention, and the votes that chose it, (n, classes).
        """
        generator = torch.Generator().manual_seed(self.seed)
        votes = self._votes(model, x, self.selection, generator)
        chosen = votes.argmax(1)
        counted = self._votes(model, x, self.samples, generator)
        hits = counted.gather(1, chosen[:, None]).squeeze(1)
        low = least_share(hits, self.samples, self.alpha)
        quantile = torch.from_numpy(norm.ppf(low.clamp(0.5).numpy()))
        return self.sigma * quantile, votes

    def _votes(self, model: nn.Module, x: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Return how often each class is the answer, (n, classes), over `draws` draws of noise."""
        device = device_of(model)
        size = pass_size(x, device)
        done = []
        with eval_mode(model):
            for part in x.float().split(size):
                copies = max(1, min(draws, size // len(part)))
                with reused(model):
                    done.append(self._counted(model, part, draws, copies, generator))
        return torch.cat(done)

    def _counted(
        self, model: nn.Module, x: Tensor, draws: int, copies: int, generator: torch.Generator
    ) -> Tensor:
        repeated = x.repeat(copies, *[1] * (x.ndim - 1))
        votes: Tensor | int = 0
        for first in range(0, draws, copies):
            noise = torch.randn(repeated.shape, generator=generator)
            noisy = (repeated + self.sigma * noise).to(device_of(model))
            logits = precise_logits(model, noisy)
            answers = logits.argmax(1).view(copies, -1)[: draws - first].cpu()
            votes = votes + nn.functional.one_hot(answers, logits.shape[1]).sum(0)
        assert isinstance(votes, Tensor)
        return votes


def least_share(hits: Tensor, n: int, alpha: float) -> Tensor:
    """Return the lower end of the one-sided Clopper-Pearson interval of hits / n, float64.

    >>> round(float(least_share(torch.tensor(990), 1000, 0.001)), 4)
    0.976
    """
    counts = hits.double().numpy()
    low = torch.as_tensor(beta.ppf(alpha, counts, n - counts + 1))
    return low.nan_to_num(0.0)
