"""What a network is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from isthmus import evidence
from isthmus.cli import words
from isthmus.cli.inputs import load_samples, say_left_out
from isthmus.cli.options.values import Samples
from isthmus.types import BadInput

if TYPE_CHECKING:
    from isthmus.data import Data
    from isthmus.evidence import Judge


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationOptions:
    """What a network is measured on.

    :param data: Evaluation samples: a named set, Parquet, image folder or .npz, such as
        "cifar10:test#skip=500".
    :param trigger: The attacker's trigger, such as "patch", "Patch(size=3, at=(0, 0))" or
        "Blend(alpha=0.2)"; also sinusoid, lowfrequency, warp, or PKG.MODULE:FUNCTION, your own.
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
