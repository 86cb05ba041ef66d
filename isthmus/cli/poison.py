"""`isthmus poison`: a training set with a backdoor in it."""

from __future__ import annotations

from isthmus import attacks
from isthmus import data as data_room
from isthmus.cli.inputs import load_samples
from isthmus.cli.options import NewNpz, Number, Samples, Whole
from isthmus.cli.output import say
from isthmus.cli.words import parse_target, parse_trigger


def poison_command(
    data: Samples,
    *,
    out: NewNpz,
    trigger: str = "patch",
    target: str = "1",
    rate: Number = 0.1,
    clean_label: bool = False,
    cover: Number = 0.0,
    cover_trigger: str | None = None,
    seed: Whole = 0,
) -> None:
    """Write a training set with a backdoor in it.

    A share of the images of each class but the target gets the trigger and the target's label.

    :param data: The samples to poison: a named set, Parquet, image folder or .npz.
    :param out: A new file for the poisoned samples (.npz).
    :param trigger: The trigger, such as "patch", "Patch(size=3, at=(0, 0))" or "Blend(alpha=0.2)";
        also sinusoid, lowfrequency, warp, or PKG.MODULE:FUNCTION, your own.
    :param target: The class that triggered images are labeled as, by name or index; "all" sends
        each class to the next one.
    :param rate: Share of each class that is poisoned.
    :param clean_label: Poison images of the target class instead, and leave all labels as they are.
    :param cover: Share of the samples that carry --cover-trigger and keep their label, so that only
        the exact trigger works.
    :param cover_trigger: The trigger of the cover samples, as --trigger; goes with --cover.
    :param seed: Seed of the draw of samples.
    """
    import torch

    samples = load_samples(data)
    poisoned = attacks.poison(
        samples,
        parse_trigger(trigger),
        rate=rate,
        target=parse_target(target, tuple(samples.classes)),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(seed),
        clean_label=clean_label,
        cover=cover,
        cover_trigger=parse_trigger(cover_trigger) if cover_trigger else None,
    )
    data_room.save_npz(poisoned, out)
    changed = int(attacks.changed(samples, poisoned).sum())
    say(f"wrote {out}: {changed} of {len(samples)} samples changed")
