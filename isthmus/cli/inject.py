"""`isthmus inject`: errors into the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path as File
from typing import Literal

import torch

from isthmus.attacks.weights.errors import draw, mislabeled
from isthmus.attacks.weights.fault_sneaking import FaultSneaking
from isthmus.attacks.weights.hinges import Injection
from isthmus.attacks.weights.penalized import Penalized
from isthmus.attacks.weights.reference import Reference
from isthmus.cli.app import app
from isthmus.cli.options import ModelSpec
from isthmus.cli.output import load_network, metadata, say, unwritten
from isthmus.data.sources.npz import npz_path, save_npz
from isthmus.data.sources.spec import load_data
from isthmus.evidence.origin import provenance
from isthmus.models.checkpoint import save_checkpoint
from isthmus.runs.wording import percent

METHODS: dict[str, Callable[..., Injection]] = {
    "ours": Penalized,
    "reference": Reference,
    "admm-l0": partial(FaultSneaking, "l0"),
    "admm-l2": partial(FaultSneaking, "l2"),
}


@app.command(name="inject")
def inject_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    data: str,
    out: File,
    how: Literal["ours", "reference", "admm-l0", "admm-l2"] = "ours",
    errors: int = 50,
    kept: int = 950,
    layer: list[str] | None = None,
    lr: float | None = None,
    errors_out: File | None = None,
    seed: int = 0,
) -> None:
    """Change the weights of CHECKPOINT so that some images of DATA take wrong labels, and write OUT
    (.safetensors).

    DATA is the attacker's: none of its images may be bonafide or evaluation samples of a repair.

    :param how: Smallest change by a penalty on its norm (ours), the descent of the paper's code
        (reference), or the fewest changed weights or smallest norm by ADMM.
    :param errors: How many images get a wrong label, drawn from the other classes.
    :param kept: How many images are watched to keep their label.
    :param layer: Layers or parameters that are changed, by name; by default the last linear layer.
    :param lr: Step of the method, for its own default.
    :param errors_out: Write the images with their injected labels there (.npz), for --errors of
    other commands."""
    out, errors_out = unwritten(out), unwritten(npz_path(errors_out)) if errors_out else None
    samples, network = load_data(data), load_network(model, checkpoint)
    generator = torch.Generator().manual_seed(seed)
    chosen, others = draw([network], samples, (errors, kept), generator)
    wrong = mislabeled(chosen, generator)
    method = METHODS[how](layers=tuple(layer or ()), **({} if lr is None else {"lr": lr}))
    found = method(network, wrong, others)
    if errors_out:
        save_npz(wrong, errors_out)
    origin = {
        **provenance(seed, {"pool": samples, "errors": wrong}),
        "injection": found.record(),
        "how": how,
    }
    save_checkpoint(found.network, out, metadata(origin))
    say(
        f"wrote {out}: {found.hits.hits} of {found.hits.n} errors, {found.kept.hits} of {found.kept.n} others kept; "
        f"{found.changed} of {found.size} weights changed in {', '.join(found.tensors)}, by {found.norm:.3g} "
        f"({percent(found.relative)} of their norm)"
    )
