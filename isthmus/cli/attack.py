"""`isthmus attack`: one checkpoint under an evasion attack."""

from __future__ import annotations

from pathlib import Path as File
from typing import TYPE_CHECKING

from isthmus import attacks, metrics, runs
from isthmus import data as data_room
from isthmus.cli.estimate import Part, note_on, pace_of, say_estimate
from isthmus.cli.gate import Check, Pipeline
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import Evasion, InputFile, ModelSpec, NewNpz, Number, Samples, Whole
from isthmus.cli.output import metric_table, say, say_health
from isthmus.types import BadInput

if TYPE_CHECKING:
    from torch import nn

    from isthmus.data import Data
    from isthmus.types import Attack


def attack_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    data: Samples,
    evasion: Evasion = Evasion(),
    limit: TimeLimit = TimeLimit(),
    seed: Whole = 0,
    device: str = "auto",
    out: NewNpz | None = None,
    fail_below: Number | None = None,
    pipeline: Pipeline = Pipeline(),
) -> None:
    """Attack the inputs of a checkpoint.

    Prints the accuracy on DATA before and after, by default under PGD. Robust accuracy is a claim
    about the attack that was run and no other; autoattack is the strongest one here. Says too
    whether the attack, not the network, explains the number (isthmus health has the whole page).
    With --out, batches are saved beside it as soon as they are attacked, and an interrupted run
    goes on from them. With --fail-below the exit status is 1 where the robust accuracy is lower.
    With --minutes the attack stays what it is, on as many samples, drawn at random, as fit.

    :param checkpoint: The network to attack.
    :param data: Samples: a named set, Parquet, image folder or .npz.
    :param seed: Seed of the attack's random starts.
    :param device: cpu, cuda, cuda:1, mps or auto.
    :param out: A new file for the attacked images with their labels (.npz).
    :param fail_below: The robust accuracy that the network has to reach, a share such as 0.4.
    """
    if fail_below is not None and not 0 <= fail_below <= 1:
        raise BadInput(
            f"--fail-below {fail_below:g}", expected="a share from 0 to 1", fix="write 0.4 for 40 %"
        )
    limit.check()
    with pipeline.words():
        values, name = _attacked(
            checkpoint, model, data, evasion, limit, seed=seed, device=device, out=out
        )
    gate = None
    if fail_below is not None:
        robust = values["robust accuracy"]
        seen = f"a robust accuracy of {runs.percent(robust)}"
        gate = Check(f"robust accuracy of {fail_below:g} or more", robust >= fail_below, seen)
    record = {"checkpoint": checkpoint.name, "attack": name, **metrics.as_records(values)}
    pipeline.deliver("attack", record, gate)


def _attacked(
    checkpoint: File,
    model: ModelSpec,
    data: str,
    evasion: Evasion,
    limit: TimeLimit,
    *,
    seed: int,
    device: str,
    out: File | None,
) -> tuple[dict[str, float], str]:
    """Attack, say what came of it, and return the accuracies and the attack's name."""
    samples = load_samples(data)
    name = evasion.attack or "pgd"
    attack = evasion.named(name, samples, seed)
    network = load_network(model, checkpoint).to(runs.pick_device(device))
    evasion.check_layers(network)
    clean = metrics.check_above_chance(network, samples)
    folder = None if out is None else out.with_name(f".{out.name}.batches")
    with runs.remembering(folder):
        samples = _within(limit, network, samples, attack, seed, folder)
        passes = metrics.Passes(network, folder=folder)
        robust = metrics.RobustAccuracy(samples, attack, examine=attacks.examine).answer(passes)
    if out:
        data_room.save_npz(passes.attacked(samples, attack), out)
    values: dict[str, float] = {"accuracy": clean, "robust accuracy": robust}
    say(metric_table("network", [(checkpoint.name, values)]))
    say_health([(checkpoint.name, values)])
    if out:
        say(f"wrote {out}")
    return values, name


def _within(
    limit: TimeLimit,
    network: nn.Module,
    samples: Data,
    attack: Attack,
    seed: int,
    folder: File | None,
) -> Data:
    """Return as many samples, drawn at random, as the time allows; say how long the attack takes.

    Fewer samples widen the interval of the robust accuracy, where a weaker attack would raise it.
    """
    import torch

    measured = pace_of(network, samples)
    one = Part("attack", 2, attack.gradients)
    whole = len(samples)
    if limit.minutes is not None:
        file = None if folder is None else folder / runs.DECISIONS
        count = limit.amount("samples", measured, [], one, most=whole, file=file)
        if count < whole:
            order = torch.randperm(whole, generator=torch.Generator().manual_seed(seed))
            samples = samples[order[:count].sort().values]
    note = limit.words("samples", len(samples), whole) + note_on(attack)
    part = one.times(len(samples))
    say_estimate(network, samples, [part], measured=measured, note=note, now=True)
    return samples
