"""A clean-label attacker: images of the target class are made hard, so that the trigger is the
easier thing to learn.

Source: Turner et al., Label-consistent backdoor attacks, 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isthmus.attacks.triggers.poisoning import poison
from isthmus.data.dataset import Data
from isthmus.models.forward import as_input, device_of, eval_mode, takes_channels_last
from isthmus.types import Attack, Trigger


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
    """Return the training set with a share `rate` of the target class made hard and triggered;
    every label stays.

    Source: Turner et al., 2019. `attack` makes the images hard against `network`, a clean one: the
    trigger is then the easier thing to learn. Where we depart: the attack is whatever is passed
    (the paper: PGD on an adversarially trained network), and the trigger is not faded or repeated
    in the corners. The network and the global random state are left as they are. Raises BadInput as
    `poison` does.
    """

    def hard_then_triggered(x: Tensor) -> Tensor:
        device, last = device_of(network), takes_channels_last(network, x)
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng(), eval_mode(network):
            torch.manual_seed(seed)
            parts = [as_input(part, device, channels_last=last) for part in x.split(batch_size)]
            labels = [torch.full((len(part),), target, device=device) for part in parts]
            hard = [
                attack(network, part, y).detach().to(x)
                for part, y in zip(parts, labels, strict=True)
            ]
        return trigger(torch.cat(hard))

    return poison(
        train, hard_then_triggered, rate=rate, target=target, generator=generator, clean_label=True
    )
