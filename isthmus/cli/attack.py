"""`isthmus attack`: one checkpoint under an evasion attack."""

from __future__ import annotations

from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.options import Evasion, ModelSpec
from isthmus.cli.output import load_network, metric_table, say, unwritten
from isthmus.data.sources.npz import npz_path, save_npz
from isthmus.data.sources.spec import load_data
from isthmus.metrics.accuracy import Accuracy, check_above_chance
from isthmus.metrics.passes import attacked
from isthmus.runs.devices import pick_device


@app.command(name="attack")
def attack_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    data: str,
    evasion: Evasion | None = None,
    seed: int = 0,
    device: str = "auto",
    out: File | None = None,
) -> None:
    """Attack CHECKPOINT on DATA, and print its accuracy before and after; without --attack by PGD.

    Robust accuracy holds against the attack that was run, and no other: autoattack is the strongest
    here.

    :param data: Samples: a named set, Parquet, image folder or .npz.
    :param device: cpu, cuda, cuda:1, mps or auto.
    :param out: Write the attacked images with their labels into a new file (.npz).
    """
    samples, evasion, out = (
        load_data(data),
        evasion or Evasion(),
        unwritten(npz_path(out)) if out else None,
    )
    name = evasion.attack or "pgd"
    attack = evasion.named(name, samples, seed)
    network = load_network(model, checkpoint).to(pick_device(device))
    clean, moved = check_above_chance(network, samples), attacked(network, samples, attack)
    if out:
        save_npz(moved, out)
    where = " and ".join(f"{type(ball).__name__} {ball.eps:.4g}" for ball in evasion.balls(samples))
    say(
        metric_table(
            "network",
            [(checkpoint.name, {"accuracy": clean, "robust accuracy": Accuracy(moved)(network)})],
        )
    )
    say(f"{name} within {where}" + (f"; wrote {out}" if out else ""))
