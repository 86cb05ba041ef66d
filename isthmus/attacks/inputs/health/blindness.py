"""Is there a gradient to climb along? From the gradients that the attack took.

Source: Pintor et al., NeurIPS 2022 (unavailable gradients); Croce and Hein, AutoAttack's check of
zero gradients at the start; Athalye et al., ICML 2018, section 5.2.
"""

from __future__ import annotations

import torch

from isthmus.attacks.inputs.health.indicator import Run


def blind(run: Run) -> float | None:
    """Return the share of samples whose gradient was zero at every look; None without a climb."""
    tracks = run.memory.tracks
    if not tracks:
        return None
    return float(torch.cat([track.blind for track in tracks]).double().mean())


def blind_at_start(run: Run) -> float | None:
    """Return the share of samples whose gradient was zero at the first look."""
    tracks = run.memory.tracks
    if not tracks:
        return None
    return float(torch.cat([track.blind_at_start for track in tracks]).double().mean())
