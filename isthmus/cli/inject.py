"""`isthmus inject`: errors in the weights of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from isthmus import attacks, evidence, models, runs
from isthmus import data as data_room
from isthmus.cli.inputs import load_plain_network, load_samples
from isthmus.cli.options import InputFile, ModelSpec, NewFile, NewNpz, Number, Samples, Whole
from isthmus.cli.output import metadata, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.attacks import Injection


@Parameter(name="*")
@dataclass(frozen=True)
class InjectionOptions:
    """How errors are injected.

    :param how: ours: the smallest change, by a penalty on its norm; reference: gradient descent as
        in the paper's code; admm-l0 and admm-l2: the fewest changed weights or the smallest norm,
        by ADMM.
    :param errors: How many images get a wrong label, drawn from the other classes.
    :param kept: How many other images have to keep their label.
    :param layer: Layers or parameters that are changed, by name; by default the last linear layer.
    :param lr: Learning rate; each method has its own default.
    :param seed: Seed of the draw of images and labels.
    """

    how: Literal["ours", "reference", "admm-l0", "admm-l2"] = "ours"
    errors: Whole = 50
    kept: Whole = 950
    layer: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = ()
    lr: Number | None = None
    seed: Whole = 0

    def method(self) -> Injection:
        """Return the method. Raises BadInput if an option is out of range."""
        methods: dict[str, Callable[..., Injection]] = {
            "ours": attacks.Penalized,
            "reference": attacks.Reference,
            "admm-l0": partial(attacks.FaultSneaking, "l0"),
            "admm-l2": partial(attacks.FaultSneaking, "l2"),
        }
        rate = {} if self.lr is None else {"lr": self.lr}
        return methods[self.how](layers=self.layer, **rate)


def inject_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    data: Samples,
    out: NewFile,
    injection: InjectionOptions = InjectionOptions(),
    errors_out: NewNpz | None = None,
) -> None:
    """Change weights so that some images take wrong labels.

    DATA is the attacker's: none of its images may be a clean or an evaluation sample of a repair.

    :param checkpoint: The network whose weights are changed.
    :param data: The images to draw from: a named set, Parquet, image folder or .npz.
    :param out: A new file for the changed network (.safetensors).
    :param errors_out: A new file for the images with their injected labels (.npz), for --errors of
        other commands.
    """
    import torch

    samples = load_samples(data)
    network = load_plain_network(model, checkpoint)
    generator = torch.Generator().manual_seed(injection.seed)
    counts = (injection.errors, injection.kept)
    chosen, others = attacks.draw([network], samples, counts, generator)
    wrong = attacks.mislabeled(chosen, generator)
    injected = injection.method()(network, wrong, others)
    if errors_out:
        data_room.save_npz(wrong, errors_out)
    origin = evidence.provenance(
        injection.seed,
        {"pool": samples, "errors": wrong},
        injection=injected.record(),
        how=injection.how,
    )
    models.save_checkpoint(injected.network, out, metadata(origin))
    say(
        f"wrote {out}: {injected.hits.hits} of {injected.hits.n} errors, {injected.kept.hits} of "
        f"{injected.kept.n} others kept; {injected.changed} of {injected.size} weights changed in "
        f"{', '.join(injected.tensors)}, by {injected.norm:.3g} "
        f"({runs.percent(injected.relative)} of their norm)"
    )
