"""`isthmus poison`: a training set with a backdoor in it."""

from __future__ import annotations

from pathlib import Path as File

import torch

from isthmus.attacks.triggers.poisoning import changed, poison
from isthmus.cli.app import app
from isthmus.cli.output import say, unwritten
from isthmus.cli.words import parse_target, parse_trigger
from isthmus.data.sources.npz import save_npz
from isthmus.data.sources.spec import load_data


@app.command(name="poison")
def poison_command(
    data: str,
    *,
    out: File,
    trigger: str = "patch",
    target: str = "1",
    rate: float = 0.1,
    clean_label: bool = False,
    cover: float = 0.0,
    cover_trigger: str | None = None,
    seed: int = 0,
) -> None:
    """Write DATA to OUT (.npz) with a share RATE of each non-target class triggered and relabeled.

    :param clean_label: Poison a share of the target class instead, and leave its labels.
    :param cover: Share of the samples that carry --cover-trigger and keep their label.
    :param cover_trigger: As --trigger; goes with --cover.
    """
    samples, out = load_data(data), unwritten(out)
    poisoned = poison(
        samples,
        parse_trigger(trigger),
        rate=rate,
        target=parse_target(target),
        generator=torch.Generator().manual_seed(seed),
        clean_label=clean_label,
        cover=cover,
        cover_trigger=parse_trigger(cover_trigger) if cover_trigger else None,
    )
    save_npz(poisoned, out)
    say(f"wrote {out}: {int(changed(samples, poisoned).sum())} of {len(samples)} samples changed")
