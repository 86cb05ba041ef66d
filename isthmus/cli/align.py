"""`isthmus align`: one checkpoint, permuted to match another."""

from __future__ import annotations

from typing import Literal

from isthmus import evidence, metrics, models
from isthmus.cli.inputs import load_plain_network, load_samples
from isthmus.cli.options import Clean, InputFile, ModelSpec, NewFile, Whole
from isthmus.cli.output import metadata, say


def align_command(
    reference: InputFile,
    network: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: NewFile,
    by: Literal["activations", "weights"] = "activations",
    seed: Whole = 0,
    details: bool = False,
) -> None:
    """Permute the channels of one checkpoint to match another.

    NETWORK computes the same afterward.

    :param reference: The checkpoint to match.
    :param network: The checkpoint whose channels are permuted.
    :param out: A new file for the permuted network (.safetensors).
    :param by: Match channels by their activations on the clean samples, or by their weights.
    :param seed: Seed of the matching.
    :param details: List what cannot be permuted, with the reasons.
    """
    samples = load_samples(clean)
    first = load_plain_network(model, reference, zeros_stay=True)
    second = load_plain_network(model, network, zeros_stay=True)
    aligned = models.align(first, second, samples, by=by, seed=seed)
    done = {"aligned to": str(reference), "by": by}
    origin = evidence.provenance(seed, {"clean": samples}, **done)
    models.save_checkpoint(aligned.model, out, metadata(origin))
    before = metrics.linear_barrier(first, second, samples)
    after = metrics.linear_barrier(first, aligned.model, samples)
    say(aligned.groups.summary + ("" if details else "; --details says why the others stay"))
    if details:
        for name, reason in aligned.fixed.items():
            say(f"{name} stays: {reason}")
    say(
        f"wrote {out}: {aligned.moved:.0%} of these moved; loss barrier of the straight "
        f"line {before:.3f} before, {after:.3f} after"
    )
