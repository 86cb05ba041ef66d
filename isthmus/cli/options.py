"""The options that several commands share, and what they mean.

Each group is a frozen dataclass that cyclopts flattens into options, with methods that turn the
words into the values that the library takes. Only these methods load the rooms of the library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from isthmus import attacks, curves, data, evidence, runs, training
from isthmus.cli import checks, words
from isthmus.cli.inputs import load_samples, say_left_out
from isthmus.cli.network import ModelSpec as ModelSpec
from isthmus.types import BadInput

if TYPE_CHECKING:
    from torch import nn

    from isthmus.attacks import PGD, SingleStepCheck
    from isthmus.curves import Route
    from isthmus.data import Ball, Data
    from isthmus.evidence import Judge
    from isthmus.training import Training
    from isthmus.types import Attack, Loss

Clean = Annotated[
    str,
    Parameter(
        name="--clean",
        validator=checks.source,
        help="Trusted samples: a named set, Parquet, image folder or .npz. SET#n=500 draws 500 of "
        "them at random.",
    ),
]
Samples = Annotated[str, Parameter(validator=checks.source)]
InputFile = Annotated[File, Parameter(validator=checks.existing)]
NewFile = Annotated[File, Parameter(validator=checks.new)]
NewNpz = Annotated[File, Parameter(validator=checks.new_npz)]
Seed = Annotated[int, Parameter(validator=checks.finite)]
Number = Annotated[float, Parameter(validator=checks.finite)]


@Parameter(name="*")
@dataclass(frozen=True)
class Budget:
    """How a network or a curve is trained.

    :param steps: Number of steps; by default 200 for a curve and 800 for a network.
    :param lr: Learning rate; by default 0.5 for a curve and 0.1 for a network.
    :param batch_size: Samples per step and process.
    :param weight_decay: Weight of half the squared norm of the weights; on a curve, of the weights
        at t.
    :param clip: Largest norm of the gradients; by default 1.5 for a curve, and none for a network.
    :param pad: Augment with shifts of up to this many pixels.
    :param flip: Augment with mirror images.
    :param seed: Seed of every random draw.
    :param precision: Precision of forward passes in training; auto is the quicker one, found by
        timing a step of each on the network.
    :param compile: Train the network compiled (torch.compile): a minute before the first step, for
        shorter steps.
    :param device: cpu, cuda, cuda:1, mps or auto.
    """

    steps: int | None = None
    lr: float | None = None
    batch_size: int = 128
    weight_decay: float = 1e-4
    clip: float | None = None
    pad: int = 0
    flip: bool = False
    seed: Seed = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # `runs.Precision`, which imports torch
    compile: bool = False
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
            device=self.device,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationOptions:
    """What a network is measured on.

    :param data: Evaluation samples: a named set, Parquet, image folder or .npz, such as
        "cifar10:test#skip=500".
    :param trigger: The attacker's trigger, such as "patch", "Patch(size=3, at=(0, 0))" or
        "Blend(alpha=0.2)"; also sinusoid, lowfrequency, warp.
    :param target: The class that triggered images are sent to, by name or index, or "all".
    :param errors: Images with their injected labels, as `isthmus inject --errors-out` writes them.
    """

    data: Samples | None = None
    trigger: str | None = None
    target: str | None = None
    errors: Samples | None = None

    def check(self) -> None:
        """Raise BadInput if only one of trigger and target is given."""
        if (self.trigger is None) != (self.target is None):
            raise BadInput(
                "a trigger or a target alone",
                expected="both or none",
                fix="pass --trigger and --target",
            )

    def judge(self, bonafide: Data | None = None) -> Judge:
        """Return the judge, without evaluation samples that are among the bonafide ones, and say
        how many those are.

        Raises BadInput as `check` does, if the target is no class of the samples, and as
        `Judge.apart_from` does.
        """
        self.check()
        evaluation = load_samples(self.data) if self.data is not None else None
        named = evaluation if evaluation is not None else bonafide
        classes = tuple(named.classes) if named is not None else ()  # type: ignore[arg-type]
        judge = evidence.Judge(
            evaluation,
            words.parse_trigger(self.trigger) if self.trigger is not None else None,
            words.parse_target(self.target, classes) if self.target is not None else None,
            load_samples(self.errors) if self.errors is not None else None,
        )
        if bonafide is None:
            return judge
        judge = judge.apart_from(bonafide)
        say_left_out(judge)
        return judge


@dataclass(frozen=True)
class Threat:
    """What an attacker of inputs may do.

    :param norm: linf, l2 or l1; several, such as "linf,l2,l1", for the worst of them. By default
        linf.
    :param eps: Radius in units of images in [0, 1], such as 8/255, one for each norm; by default
        8/255, 0.5 and 12.
    :param attack_steps: How many gradients, or queries, the attack takes; by default what its paper
        takes.
    """

    norm: str | None = None
    eps: str | None = None
    attack_steps: int | None = None

    def balls(self, samples: Data) -> tuple[Ball, ...]:
        """Return the balls for such samples. Raises BadInput if norm or radius do not fit them."""
        return words.parse_balls(self.norm, self.eps, samples.x.shape[1:])

    def refuse_alone(self, fix: str, *, landscape: bool = False) -> None:
        """Raise BadInput if an option describes an attack that nothing runs.

        A `landscape` runs one within --norm and --eps.
        """
        unused = ["restarts", "straight_through", "beta"]
        if not landscape:
            unused = ["norm", "eps", "attack_steps", *unused]
        for name in unused:
            if getattr(self, name, None) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} without an attack", expected="both or none", fix=fix)


@Parameter(name="*")
@dataclass(frozen=True)
class Evasion(Threat):
    """The attack that a network is measured under.

    :param attack: Measure the accuracy under this attack.
    :param restarts: How often the attack starts anew; by default once.
    :param straight_through: Layers without a useful gradient (rounding, JPEG, thresholds), by the
        names of their modules, as in "front,stem.quantize": the attack takes that of the identity.
    """

    attack: words.AttackName | None = None
    restarts: int | None = None
    straight_through: str | None = None

    def named(self, name: words.AttackName, samples: Data, seed: int = 0) -> Attack:
        """Return the attack of that name for such samples.

        Raises BadInput if an option does not apply to it.
        """
        attack = words.parse_attack(
            name, self.balls(samples), steps=self.attack_steps, restarts=self.restarts, seed=seed
        )
        if self.straight_through is None:
            return attack
        return attacks.BPDA(attack, self.layers)

    @property
    def layers(self) -> list[str]:
        """The names of the layers to pass straight through."""
        return [layer.strip() for layer in (self.straight_through or "").split(",") if layer]

    def check_layers(self, network: nn.Module) -> None:
        """Raise BadInput where the network has no such layers, before any work is done."""
        attacks.named_layers(network, self.layers)

    def chosen(self, samples: Data, *, landscape: bool = False) -> Attack | None:
        """Return the attack of --attack, None without one.

        Raises BadInput as `named` and `refuse_alone` do.
        """
        if self.attack is None:
            self.refuse_alone("name it: --attack pgd", landscape=landscape)
            return None
        return self.named(self.attack, samples)


@Parameter(name="*")
@dataclass(frozen=True)
class RobustTraining(Threat):
    """What is minimized in training.

    :param loss: cross-entropy, or a loss against an attack: adversarial (PGD; MSD for several
        norms), trades, or fast: a single step (N-FGSM), with a check on held-out samples that stops
        training once it has collapsed.
    :param beta: Weight of robustness in trades; by default 6.
    """

    loss: words.LossName = "cross-entropy"
    beta: float | None = None

    def objective(self, samples: Data, *, landscape: bool = False) -> Loss:
        """Return the loss on such samples. Raises BadInput if an option does not apply to it."""
        if self.loss == "cross-entropy":
            self.refuse_alone("name a loss: --loss adversarial", landscape=landscape)
            return training.cross_entropy
        return words.parse_loss(
            self.loss, self.balls(samples), steps=self.attack_steps, beta=self.beta
        )

    def judged(self, samples: Data) -> Attack | None:
        """Return the attack that networks trained so are measured under, PGD in the same balls;
        None for the cross-entropy.
        """
        if self.loss == "cross-entropy":
            return None
        return words.parse_attack("pgd", self.balls(samples), steps=None, restarts=None, seed=0)

    def parts(self, samples: Data, seed: int) -> tuple[Data, Data]:
        """Return the part that trains and the part that checks fast training: a tenth, if there are
        enough samples.
        """
        return data.hold_out(samples, 0.1, seed) if self.loss == "fast" else (samples, samples)

    def check(self, held_out: Data) -> SingleStepCheck | None:
        """Return the check that fast training needs, None for other losses."""
        if self.loss != "fast":
            return None
        return attacks.SingleStepCheck(held_out, self.balls(held_out))


@Parameter(name="*")
@dataclass(frozen=True)
class LandscapeOptions:
    """Robustness and curvature along a path or on a plane.

    :param landscape: Measure them too: loss under PGD within --eps, input-Hessian, gradient norms,
        and which of them go together.
    :param landscape_samples: Measure them on the first samples, this many; by default 500.
    """

    landscape: bool = False
    landscape_samples: int | None = None

    def check(self) -> None:
        """Raise BadInput if there are samples without a landscape, or no samples."""
        if self.landscape_samples is not None and not self.landscape:
            raise BadInput(
                "--landscape-samples",
                expected="--landscape",
                fix="pass --landscape, or neither",
            )
        if self.samples < 1:
            raise BadInput(
                f"--landscape-samples {self.samples}",
                expected="1 or more",
                fix="leave it out for 500",
            )

    @property
    def samples(self) -> int:
        """How many samples are measured."""
        return 500 if self.landscape_samples is None else self.landscape_samples

    def attack(self, threat: Threat, samples: Data) -> PGD | None:
        """Return PGD in the ball of the threat; None without a landscape.

        Raises BadInput as `check` does, and for several norms.
        """
        self.check()
        if not self.landscape:
            return None
        balls = threat.balls(samples)
        if len(balls) > 1:
            raise BadInput(
                f"--norm {threat.norm} for a landscape",
                expected="one norm",
                fix="measure one at a time",
            )
        steps = 10 if threat.attack_steps is None else threat.attack_steps
        return attacks.PGD(balls[0], steps=steps, returns="worst")


@Parameter(name="*")
@dataclass(frozen=True)
class Measurement:
    """What is measured at every point of a path or a plane."""

    evaluation: EvaluationOptions = EvaluationOptions()
    evasion: Evasion = Evasion()
    landscape: LandscapeOptions = LandscapeOptions()

    def check(self) -> None:
        """Raise BadInput if options exclude each other, before anything is read."""
        self.evaluation.check()
        self.landscape.check()

    def landscape_attack(self, samples: Data) -> PGD | None:
        """Return the attack of the landscape, None without one.

        Raises BadInput as `LandscapeOptions.attack` does.
        """
        return self.landscape.attack(self.evasion, samples)

    def judge(self, samples: Data) -> Judge:
        """Return the judge with the attack of --attack.

        Raises BadInput as `EvaluationOptions` and `Evasion` do.
        """
        judge = self.evaluation.judge(samples)
        attack = self.evasion.chosen(samples, landscape=self.landscape.landscape)
        return replace(judge, attack=attack)


@Parameter(name="*")
@dataclass(frozen=True)
class CurveOptions:
    """The shape of a curve and how it is trained.

    :param bends: Interior control points of the curve; by default 1.
    :param kind: The curve, bezier or polychain; by default bezier.
    :param rho: Train the curve at the worst weights within this radius, at two gradients a step; 0
        for the plain loss. By default 2 in repair and 0 in connect.
    :param adaptive: Measure --rho in units of each weight's size; the default.
    :param low: Smallest t that is trained, and measured in repair; by default 0.1 in repair and 0
        in connect.
    :param high: Largest t that is trained, and measured in repair; by default 0.4 in repair and 1
        in connect.
    """

    bends: int | None = None
    kind: Literal["bezier", "polychain"] | None = None
    rho: Number | None = None
    adaptive: bool | None = None
    low: Number | None = None
    high: Number | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are on the command line, if only with their default values, as
        fields of `Route`.
        """
        names = ("bends", "kind", "rho", "adaptive", "low", "high")
        values = {name: getattr(self, name) for name in names}
        if self.kind is not None:
            values["kind"] = curves.PolyChain if self.kind == "polychain" else curves.Bezier
        return {name: value for name, value in values.items() if value is not None}

    def route(self, loss: Loss, default: Route) -> Route:
        """Return the route with this loss; options that are not given are those of `default`."""
        return default.replace(loss=loss, **self.given())
