"""`isthmus demo`: the whole story on the digits."""

from __future__ import annotations

import time
from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.repair import deliver
from isthmus.cli.story import tell
from isthmus.evidence.gather import evidence
from isthmus.evidence.origin import report_provenance
from isthmus.runs.folder import claimed


@app.command
def demo(*, out: File = File("demo"), seed: int = 0, resume: bool = False) -> None:
    """Tell the whole story on the digits that come with scikit-learn: backdoor two networks, repair
    them, compare.
    """
    began = time.perf_counter()
    with claimed(out, {"command": "demo", "seed": seed}, resume=resume):
        story = tell(seed, out)
        data = {"clean": story.bonafide, "evaluation": story.evaluation}
        report = evidence(
            story.found,
            story.tampered,
            story.judge,
            baselines=story.rivals,
            provenance=report_provenance(seed, data, other="given"),
            folder=out / "points",
        )
        title = "Demo: two backdoored digit classifiers and the path between them"
        deliver(story.found, report.entitled(title).timed(time.perf_counter() - began), out)
