"""How long a network is trained, at which rate and precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from isthmus import data, runs
from isthmus.cli.options.values import Number, Whole

if TYPE_CHECKING:
    from isthmus.training import Training


@Parameter(name="*")
@dataclass(frozen=True)
class Budget:
    """How a curve is trained; subclasses say what else is the default for a network.

    :param steps: Number of steps; by default 200.
    :param lr: Learning rate; by default 0.5.
    :param batch_size: Samples per step and process.
    :param weight_decay: Weight of half the squared norm of the weights; on a curve, at t.
    :param clip: Largest norm of the gradients; by default 1.5.
    :param pad: Augment with shifts of up to this many pixels.
    :param flip: Augment with mirror images.
    :param seed: Seed of every random draw.
    :param precision: Precision of forward passes in training; auto is the quicker one, found by
        timing a step of each on the network.
    :param compile: Train the network compiled (torch.compile): a minute before the first step, for
        shorter steps.
    :param microbatch: Keep the activations of this many samples at most: a batch is passed in
        parts, which are computed again for the gradients.
    :param recompute: Keep fewer activations of each sample: parts of the network are computed again
        for the gradients.
    :param shard: Share weights, gradients and the optimizer's state out over the processes of a
        torchrun launch (FSDP2), for networks that do not fit one device.
    :param device: cpu, cuda, cuda:1, mps or auto.
    """

    steps: Whole | None = None
    lr: Number | None = None
    batch_size: Whole = 128
    weight_decay: Number = 1e-4
    clip: Number | None = None
    pad: Whole = 0
    flip: bool = False
    seed: Whole = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # `runs.Precision`, which imports torch
    compile: bool = False
    microbatch: Whole | None = None
    recompute: bool = False
    shard: bool = False
    device: str = "auto"

    def training(self, defaults: Training) -> Training:
        """Return these settings as a training; steps, lr and clip default to `defaults`.

        Raises BadInput if the budget or device is invalid, before any work starts.
        """
        runs.pick_device(self.device)
        augmented = self.pad or self.flip
        return defaults.replace(
            steps=defaults.steps if self.steps is None else self.steps,
            lr=defaults.lr if self.lr is None else self.lr,
            clip=defaults.clip if self.clip is None else self.clip,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            augment=data.Augment(self.pad, self.flip) if augmented else None,
            seed=self.seed,
            precision=self.precision,
            compile=self.compile,
            microbatch=self.microbatch,
            recompute=self.recompute,
            shard=self.shard,
            device=self.device,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class NetworkBudget(Budget):
    """How a network is trained.

    :param steps: Number of steps; by default 800.
    :param lr: Learning rate; by default 0.1, or 0.001 for adamw.
    :param weight_decay: Weight of half the squared norm of the weights.
    :param clip: Largest norm of the gradients; by default none.
    """


@Parameter(name="*")
@dataclass(frozen=True)
class SmallBudget(Budget):
    """How a network that is made smaller is trained.

    :param steps: Number of steps; by default 400.
    :param lr: Learning rate; by default 0.02.
    :param weight_decay: Weight of half the squared norm of the weights.
    :param clip: Largest norm of the gradients; by default none.
    """
