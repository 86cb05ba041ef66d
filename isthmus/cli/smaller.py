"""What `isthmus prune` and `isthmus quantize` have in common: training, measuring, writing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from isthmus import compression, evidence, metrics, models, training
from isthmus.cli import words
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.options import EvaluationOptions, RobustTraining
from isthmus.cli.output import metadata, say
from isthmus.types import BadInput

if TYPE_CHECKING:
    from pathlib import Path as File

    from rich.table import Table
    from torch import nn

    from isthmus.cli.options import Budget
    from isthmus.compression import Compressed
    from isthmus.data import Data
    from isthmus.evidence import Compression, Judge
    from isthmus.types import Attack, Loss


@Parameter(name="*")
@dataclass(frozen=True)
class RobustCompression(RobustTraining):
    """What is minimized, and the attack that both networks are measured under.

    :param attack: Measure the accuracy under this attack, within the same ball.
    :param restarts: How often the attack starts anew; by default once.
    """

    attack: words.AttackName | None = None
    restarts: int | None = None

    def objective(self, samples: Data, *, landscape: bool = False) -> Loss:
        """Return the loss on such samples. Raises BadInput if an option does not apply to it."""
        if self.loss == "fast":
            raise BadInput(
                "--loss fast, which needs samples to be watched on",
                expected="cross-entropy, adversarial or trades",
                fix="pass --loss adversarial",
            )
        if self.attack is not None and self.loss == "cross-entropy":
            return training.cross_entropy
        return super().objective(samples, landscape=landscape)

    def chosen(self, samples: Data) -> Attack | None:
        """Return the attack of --attack, None without one."""
        if self.attack is None:
            return None
        return words.parse_attack(
            self.attack, self.balls(samples), steps=self.attack_steps, restarts=self.restarts
        )


def options_of(budget: Budget) -> dict[str, Any]:
    """Return the budget as options of `fit`; none where it has no steps."""
    if budget.steps == 0:
        return {}
    whole = budget.training(training.Training(steps=400, lr=0.02))
    return {field.name: getattr(whole, field.name) for field in fields(whole)}


@dataclass(frozen=True)
class Work:
    """A network to compress, the clean samples it is trained on, and the judge of the result."""

    checkpoint: File
    model: str
    network: nn.Module
    clean: Data
    judge: Judge

    @classmethod
    def of(
        cls,
        checkpoint: File,
        model: str,
        clean: str,
        evaluation: EvaluationOptions,
        robust: RobustCompression,
    ) -> Work:
        """Read network and samples. Raises BadInput where one of them does not fit."""
        evaluation.check()
        if evaluation.data is None:
            raise BadInput(
                "no evaluation data", expected="--data", fix="name a set, a file or a folder"
            )
        samples = load_samples(clean)
        judge = evaluation.judge(samples)
        assert judge.evaluation is not None
        judge = replace(judge, attack=robust.chosen(judge.evaluation))
        network = load_network(model, checkpoint)
        metrics.logits(network, samples[:1])  # refuses images and classes that do not fit
        return cls(checkpoint, model, network, samples, judge)

    def deliver(self, small: Compressed, out: File) -> None:
        """Measure the network before and after, write everything, and say what came of it."""
        origin = evidence.provenance(0, {"clean": self.clean, **self.judge.data()})
        assert self.judge.evaluation is not None
        report = evidence.compression(
            self.network,
            small,
            models.model_factory(self.model)(),
            self.judge.evaluation,
            self.judge.metrics(self.clean),
            out,
            network=self.checkpoint.name,
            provenance=origin,
        )
        written, page = report.write(out)
        say(_table(report))
        say(report.verdict)
        if not small.record.get("smaller"):
            plain = out / "network.safetensors"
            models.save_checkpoint(compression.baked(small.model), plain, metadata(origin))
            say(f"{plain} is the same network unpacked, for --model as before")
        say(f"wrote {out / 'compressed.safetensors'}, {written} and {page}")


def _table(report: Compression) -> Table:
    from rich.table import Table

    table = Table("", "before", "after")
    for row in report.rows():
        table.add_row(*row)
    return table
