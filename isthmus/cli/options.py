"""The options that several commands share, and what they mean: a budget, what is asked, an attack,
a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from isthmus.attacks.inputs.gradient import PGD
from isthmus.attacks.inputs.health.single_step import SingleStepCheck
from isthmus.cli.app import usable
from isthmus.cli.words import (
    AttackName,
    LossName,
    parse_attack,
    parse_balls,
    parse_loss,
    parse_target,
    parse_trigger,
)
from isthmus.curves.curve import Bezier, Curve, PolyChain
from isthmus.data.augment import Augment
from isthmus.data.balls import Ball
from isthmus.data.dataset import Data
from isthmus.data.sources.spec import load_data
from isthmus.data.splits import hold_out
from isthmus.evidence.judge import Judge
from isthmus.runs.devices import Precision, pick_device
from isthmus.training.budget import Training
from isthmus.training.losses import cross_entropy
from isthmus.types import Attack, BadInput, Loss

ModelSpec = Annotated[
    str, Parameter(name="--model", help="PKG.MODULE:FACTORY, a callable that builds the network.")
]


Clean = Annotated[
    str,
    Parameter(name="--clean", help="Trusted samples: a named set, Parquet, image folder or .npz."),
]


KINDS: dict[str, type[Curve]] = {"bezier": Bezier, "polychain": PolyChain}


@Parameter(name="*")
@dataclass
class Budget:
    """How a network or a curve is trained.

    :param steps: The budget, in SGD steps; by default 200 for a curve and 800 for a network.
    :param lr: Learning rate; by default 0.5 for a curve and 0.1 for a network.
    :param batch_size: Samples per step and process.
    :param weight_decay: Weight of half the squared norm of the weights; on a curve, of the weights
        at t.
    :param clip: Largest norm of the gradients; by default 1.5 for a curve, and none for a network.
    :param pad: Augment with shifts of up to so many pixels.
    :param flip: Augment with mirror images.
    :param seed: Of every random draw.
    :param precision: Of forward passes in training; auto is bf16 where the hardware has it.
    :param device: cpu, cuda, cuda:1, mps or auto."""

    steps: int | None = None
    lr: float | None = None
    batch_size: int = 128
    weight_decay: float = 1e-4
    clip: float | None = None
    pad: int = 0
    flip: bool = False
    seed: Annotated[int, Parameter(validator=usable)] = 0
    precision: Precision = "auto"
    device: str = "auto"

    def training(self, defaults: Training) -> Training:
        """Return these settings as options of `fit`; steps, lr and clip are the defaults' where
        they were not given.

        Raises BadInput where they are no budget or no device of this machine, so that no work is
        done in vain."""
        pick_device(self.device)
        return defaults.replace(
            steps=defaults.steps if self.steps is None else self.steps,
            lr=defaults.lr if self.lr is None else self.lr,
            clip=defaults.clip if self.clip is None else self.clip,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            augment=Augment(self.pad, self.flip) if self.pad or self.flip else None,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
        )


@Parameter(name="*")
@dataclass
class Asked:
    """What a network is judged on.

    :param data: Evaluation samples: a named set, Parquet, image folder or .npz, as
        "cifar10:test#skip=500".
    :param trigger: The attacker's, as "patch", "Patch(size=3, at=(0, 0))" or "Blend(alpha=0.2)";
        also sinusoid, lowfrequency, warp.
    :param target: The class that triggered images are sent to, or "all".
    :param errors: Images with their injected labels, as `isthmus inject --errors-out` writes them.
    """

    data: str | None = None
    trigger: str | None = None
    target: str | None = None
    errors: str | None = None

    def judge(self) -> Judge:
        """Return the judge. Raises BadInput where only one of trigger and target is given."""
        if (self.trigger is None) != (self.target is None):
            raise BadInput(
                "a trigger or a target alone",
                expected="both or none",
                fix="pass --trigger and --target",
            )
        return Judge(
            load_data(self.data) if self.data is not None else None,
            parse_trigger(self.trigger) if self.trigger is not None else None,
            parse_target(self.target) if self.target is not None else None,
            load_data(self.errors) if self.errors is not None else None,
        )


@dataclass
class Threat:
    """What an attacker of inputs may do.

    :param norm: linf, l2 or l1; several, as "linf,l2,l1", for the worst of them. By default linf.
    :param eps: The radius in units of images in [0, 1], as 8/255, one for each norm; by default
        8/255, 0.5 and 12.
    :param attack_steps: How many gradients the attack takes, or queries; by default what its paper
    takes."""

    norm: str | None = None
    eps: str | None = None
    attack_steps: int | None = None

    def balls(self, samples: Data) -> tuple[Ball, ...]:
        """Return the balls for such samples. Raises BadInput where norm or radius have no sense for
        them.
        """
        return parse_balls(self.norm, self.eps, samples.x.shape[1:])

    def refuse_alone(self, fix: str, *, around: bool = False) -> None:
        """Raise BadInput where an option describes an attack that nothing runs; a landscape around
        the path may.
        """
        for name in (
            ("restarts", "beta") if around else ("norm", "eps", "attack_steps", "restarts", "beta")
        ):
            if getattr(self, name, None) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} without an attack", expected="both or none", fix=fix)


@Parameter(name="*")
@dataclass
class Evasion(Threat):
    """The attack that a network is judged under.

    :param attack: Measure the accuracy under this attack.
    :param restarts: How often it starts anew; by default once.
    """

    attack: AttackName | None = None
    restarts: int | None = None

    def named(self, name: AttackName, samples: Data, seed: int = 0) -> Attack:
        """Return the attack of that name for such samples. Raises BadInput where an option has no
        sense for it.
        """
        return parse_attack(
            name, self.balls(samples), steps=self.attack_steps, restarts=self.restarts, seed=seed
        )

    def value(self, samples: Data, *, around: bool = False) -> Attack | None:
        """Return the attack that was asked for, if any. Raises BadInput as `named` and
        `refuse_alone` do.
        """
        if self.attack is None:
            self.refuse_alone("name it: --attack pgd", around=around)
            return None
        return self.named(self.attack, samples)


@Parameter(name="*")
@dataclass
class Hardening(Threat):
    """What is minimized in training.

    :param loss: cross-entropy, or against an attack: adversarial (PGD; MSD for several norms),
        trades, or fast: a single step (N-FGSM), and a check on samples kept back that stops
        training which has collapsed.
    :param beta: The weight of robustness in trades; by default 6."""

    loss: LossName = "cross-entropy"
    beta: float | None = None

    def value(self, samples: Data, *, around: bool = False) -> Loss:
        """Return the loss on such samples. Raises BadInput where an option has no sense."""
        if self.loss == "cross-entropy":
            self.refuse_alone("name a loss: --loss adversarial", around=around)
            return cross_entropy
        return parse_loss(self.loss, self.balls(samples), steps=self.attack_steps, beta=self.beta)

    def parts(self, samples: Data, seed: int) -> tuple[Data, Data]:
        """Return what trains and what the check of fast training asks: a tenth, where there are
        enough.
        """
        return hold_out(samples, 0.1, seed) if self.loss == "fast" else (samples, samples)

    def check(self, held_out: Data) -> SingleStepCheck | None:
        """Return the check that fast training needs."""
        return SingleStepCheck(held_out, self.balls(held_out)) if self.loss == "fast" else None


@Parameter(name="*")
@dataclass
class Surroundings:
    """Robustness and curvature along the path.

    :param landscape: Measure them too: loss under PGD within --eps, input-Hessian, gradient norms,
        and what goes with what.
    :param landscape_samples: On the first so many samples; by default 500."""

    landscape: bool = False
    landscape_samples: int | None = None

    def attack(self, threat: Threat, samples: Data) -> PGD | None:
        """Return PGD in the ball of the threat; None where no landscape was asked for.

        Raises BadInput for options without a landscape, and for several norms.
        """
        if not self.landscape:
            if self.landscape_samples is not None:
                raise BadInput(
                    "--landscape-samples",
                    expected="--landscape",
                    fix="pass --landscape, or neither",
                )
            return None
        _ = self.samples  # refuses
        balls = threat.balls(samples)
        if len(balls) > 1:
            raise BadInput(
                f"--norm {threat.norm} for a landscape",
                expected="one norm",
                fix="measure one at a time",
            )
        return PGD(
            balls[0],
            steps=10 if threat.attack_steps is None else threat.attack_steps,
            returns="worst",
        )

    @property
    def samples(self) -> int:
        """How many samples are asked. Raises BadInput where there are none."""
        found = 500 if self.landscape_samples is None else self.landscape_samples
        if found < 1:
            raise BadInput(
                f"--landscape-samples {found}", expected="1 or more", fix="leave it out for 500"
            )
        return found
