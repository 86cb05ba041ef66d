"""What `isthmus prune` and `isthmus quantize` have in common: options, measuring, writing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cyclopts import Parameter

from isthmus import compression, evidence, metrics, models, runs, training
from isthmus.cli import words  # noqa: F401  (cyclopts reads inherited types in this module)
from isthmus.cli.checks import changed, unclaimed, without_effect
from isthmus.cli.estimate import Part, note_on, parts_of, say_estimate, together
from isthmus.cli.inputs import load_network, load_samples, warn_of_zeros
from isthmus.cli.options import (
    Clean,
    EvaluationOptions,
    Evasion,
    ModelSpec,
    Number,  # noqa: F401  (the same)
    RobustTraining,
    SmallBudget,
    Whole,  # noqa: F401  (the same)
)
from isthmus.cli.output import metadata, say, say_health
from isthmus.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from isthmus.compression import Compressed
    from isthmus.data import Data
    from isthmus.evidence import Compression, Judge
    from isthmus.training import Training
    from isthmus.types import Attack, Loss


LEAVES = ("before.safetensors", "compressed.safetensors", "network.safetensors")
"""What a run writes before its report, and leaves where it is killed."""


MEASURING = ("steps", "seed", "device")
"""What of a budget has an effect where nothing is trained: no steps, and how it is measured."""


@Parameter(name="*")
@dataclass(frozen=True)
class RobustCompression(RobustTraining, Evasion):
    """What is minimized, and the attack that both networks are measured under.

    :param loss: cross-entropy, or a loss against an attack: adversarial (PGD; MSD for several
        norms), trade-off (clean and attacked inputs together) or trades.
    """

    alone: ClassVar = "measure under an attack: --attack pgd, or train: --loss adversarial"

    loss: Literal["cross-entropy", "adversarial", "trade-off", "trades"] = "cross-entropy"

    def unused(self, *, trained: bool) -> list[str]:
        """Return the names of the options that are given for nothing: those of a loss where nothing
        is trained, and those of an attack that nobody runs.
        """
        names = []
        if self.attack is None:
            names += ["restarts", "straight_through"]
            if not trained:
                names += ["norm", "eps", "attack_steps"]
        if not trained:
            names += ["loss", "beta"]
        elif self.loss == "cross-entropy":
            names += ["beta"]
        return [name for name in changed(self) if name in names]

    def objective(self, samples: Data, *, landscape: bool = False) -> Loss:
        """Return the loss on such samples. Raises BadInput if an option does not apply to it."""
        if self.attack is not None and self.loss == "cross-entropy":
            return training.cross_entropy
        return super().objective(samples, landscape=landscape)

    def chosen(self, samples: Data, *, landscape: bool = False) -> Attack | None:
        """Return the attack of --attack, None without one; norm and eps are those of the loss."""
        return None if self.attack is None else self.named(self.attack, samples)


@Parameter(name="*")
@dataclass(frozen=True)
class CompressionOptions:
    """What is compressed on which samples, and how it is trained and measured.

    :param out: A new or empty folder for the network and its report.
    """

    model: ModelSpec
    clean: Clean
    out: File
    evaluation: EvaluationOptions = EvaluationOptions()
    robust: RobustCompression = RobustCompression()
    budget: SmallBudget = SmallBudget()

    def training(self) -> Training | None:
        """Return the training of the budget; None where it has no steps."""
        if self.budget.steps == 0:
            return None
        return self.budget.training(training.Training(steps=400, lr=0.02))

    def check_used(self, *, trained: bool) -> None:
        """Refuse options that have no effect on a network that is trained, or is not. Raises
        BadInput.
        """
        names = self.robust.unused(trained=trained)
        names += [] if trained else [n for n in changed(self.budget) if n not in MEASURING]
        what = f"trained on {self.robust.loss}" if trained else "not trained"
        under = "" if self.robust.attack else ", with no --attack to measure it under"
        measurable = {"norm", "eps", "attack_steps", "restarts", "straight_through"}
        fix = "leave them out"
        if self.robust.attack is None and measurable.intersection(names):
            fix += ", or measure under an attack: --attack pgd"
        without_effect(names, on=f"a network that is {what}{under}", fix=fix)


@dataclass(frozen=True)
class Method:
    """How a command makes networks smaller: its options, which a run is recognized by."""

    command: ClassVar[str]

    def keeps_zeros(self, *, trained: bool) -> bool:
        """Return whether weights that are 0 stay 0, given whether the network is `trained`."""
        return not trained


@dataclass(frozen=True)
class Compressing:
    """A network to compress, the clean samples it is trained on, and the judge of the result."""

    checkpoint: File
    options: CompressionOptions
    network: nn.Module
    clean: Data
    judge: Judge

    @classmethod
    def of(cls, checkpoint: File, options: CompressionOptions, *, zeros_stay: bool) -> Compressing:
        """Read network and samples; warn of zeros, unless what is done leaves them.

        Raises BadInput where one of them does not fit.
        """
        unclaimed(options.out, resume=None, leaves=LEAVES)
        options.evaluation.check()
        if options.evaluation.data is None:
            raise BadInput(
                "no evaluation data", expected="--data", fix="name a set, a file or a folder"
            )
        samples = load_samples(options.clean)
        judge = options.evaluation.judge(samples)
        assert judge.evaluation is not None
        judge = replace(judge, attack=options.robust.chosen(judge.evaluation))
        network = load_network(options.model, checkpoint)
        if not zeros_stay:
            warn_of_zeros(network, checkpoint)
        metrics.check_fits(network, samples)
        return cls(checkpoint, options, network, samples, judge)

    @property
    def loss(self) -> Loss:
        """What is minimized."""
        return self.options.robust.objective(self.clean)

    def budget(self, trained: Training | None) -> dict[str, Any]:
        """Return a training as options of `prune` and `quantize`, its precision decided, none for
        None; say how long it and measuring will take, but for fitting weights to a grid.
        """
        self.network.to(runs.pick_device(self.options.budget.device))
        measuring = together("measuring", parts_of(self.judge.metrics(self.clean))).times(2)
        note = note_on(self.judge.attack)
        if trained is None:
            say_estimate(self.network, self.clean, [measuring], note=note)
            return {}
        trained = training.with_decided_precision(trained, self.network, self.clean)
        images = trained.steps * trained.batch_size * training.gradients_per_step(self.loss)
        parts = [Part("training", trained=images), measuring]
        say_estimate(self.network, self.clean, parts, training=trained, note=note)
        return {field.name: getattr(trained, field.name) for field in fields(trained)}

    def deliver(self, compress: Callable[[], Compressed], method: Method) -> None:
        """Compress, measure the network before and after, write everything, and say what came of
        it.
        """
        out = self.options.out
        with runs.claimed(out, self._identity(method), resume=None, leaves=LEAVES):
            small = compress()
            runs.begin()  # where nothing was trained: what is refused by then leaves one line
            report = self._measured(small)
            self._write_plain(small, metadata(report.provenance))
            written, page = evidence.write_report(report, out)  # last: it says that all is there
        say(evidence.text.compression_table(report))
        say_health([("before", report.before.metrics), ("after", report.after.metrics)])
        say(report.verdict)
        say(f"wrote {out / 'compressed.safetensors'}, {written} and {page}")

    def _write_plain(self, small: Compressed, origin: dict[str, str]) -> None:
        """Write the network as an ordinary checkpoint where --model can load it, and say so."""
        unpacked = compression.baked(small.model).state_dict()
        built = models.model_factory(self.options.model.spec)().state_dict()
        plain = self.options.out / "network.safetensors"
        if unpacked.keys() != built.keys():  # of weight_norm, ...
            say(f"no {plain} is written: --model has other names for its weights")
        elif any(value.shape != built[name].shape for name, value in unpacked.items()):
            say(f"no {plain} is written: --model builds the channels that were removed")
        else:
            models.save_checkpoint(unpacked, plain, origin)
            say(f"{plain} is the same network unpacked, for --model as before")
            return
        say("compressed.safetensors holds it, which all commands that measure a network read")

    def _identity(self, method: Method) -> dict[str, Any]:
        options = self.options
        return {
            "command": method.command,
            **vars(method),
            "model": options.model.spec,
            "checkpoint": runs.file_sha256(self.checkpoint),
            "clean": self.clean.sha256,
            "data": {name: samples.sha256 for name, samples in self.judge.data().items()},
            "attack": None if self.judge.attack is None else runs.identity_of(self.judge.attack),
            "loss": runs.identity_of(self.loss),
            "budget": vars(options.budget),
        }

    def _measured(self, small: Compressed) -> Compression:
        assert self.judge.evaluation is not None
        options = self.options
        data = {"clean": self.clean, **self.judge.data()}
        return evidence.compression(
            self.network,
            small,
            models.model_factory(options.model.spec)(),
            self.judge.evaluation,
            self.judge.metrics(self.clean),
            options.out,
            network=self.checkpoint.name,
            passed=self.checkpoint.stat().st_size,
            provenance=evidence.network_provenance(options.budget.seed, data, self.checkpoint),
        )
