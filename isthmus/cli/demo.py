"""`isthmus demo`: the whole story on the digits."""

from __future__ import annotations

import time
from pathlib import Path as File

from isthmus import evidence, runs
from isthmus.cli.checks import unclaimed
from isthmus.cli.options import Whole
from isthmus.cli.output import deliver
from isthmus.cli.story import MODEL, tell


def demo_command(*, out: File = File("demo"), seed: Whole = 0, resume: bool = False) -> None:
    """Backdoor, repair and compare networks on scikit-learn's digits.

    Tells the whole story in about a minute, without any data to download.

    :param out: A new folder for the repaired network and the report.
    :param seed: Seed of every random draw.
    :param resume: Go on with the run that OUT holds.
    """
    began = time.perf_counter()
    unclaimed(out, resume=resume)
    with runs.claimed(out, {"command": "demo", "seed": seed}, resume=resume):
        story = tell(seed, out)
        samples = {"clean": story.bonafide, "evaluation": story.evaluation}
        origin = evidence.report_provenance(seed, samples, other=story.found.second)
        kind = evidence.network_kind(story.tampered, MODEL)
        report = evidence.evidence(
            story.found,
            story.tampered,
            story.judge,
            baselines=story.rivals,
            provenance=origin.model_copy(update={"network": kind}),
            folder=out / "points",
        )
        title = "Demo: a backdoored digit classifier and the path to its repair"
        report = report.entitled(title).timed(time.perf_counter() - began)
        deliver(story.found, report, out)
