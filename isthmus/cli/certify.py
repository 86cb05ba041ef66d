"""`isthmus certify`: what no attack within eps can change."""

from __future__ import annotations

from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from isthmus import attacks, certification, data, evidence, models, runs
from isthmus.cli import checks, words
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.options import InputFile, ModelSpec, Number, Samples, Whole
from isthmus.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from isthmus.certification import Certifier
    from isthmus.data import Ball
    from isthmus.evidence import Certificates
    from isthmus.types import Attack

SIGMA = 0.25
"""The noise of smoothing where nothing is said."""

CertifierName = Literal["auto", "mixed-monotone", "interval", "lipschitz", "smoothing"]


def certify_command(
    checkpoint: InputFile,
    *,
    model: ModelSpec,
    samples: Annotated[Samples, Parameter(name="--data")],
    out: File,
    eps: str = "0.01,0.03,0.1",
    certifier: CertifierName = "auto",
    sigma: Number | None = None,
    attack_steps: Whole = 20,
    restarts: Whole = 1,
) -> None:
    """Prove which answers no input within eps changes.

    Prints certified accuracy at every eps, the accuracy that PGD leaves, and the gap between them,
    and writes OUT/report.json and OUT/report.html. An interrupted run starts over.

    :param checkpoint: The network to certify.
    :param out: A new or empty folder for the report.
    :param samples: Evaluation samples: a named set, Parquet, image folder or .npz.
    :param eps: Radii in units of images in [0, 1], as 0.01,8/255: l-inf; l2 for smoothing.
    :param certifier: By default mixed-monotone for a network with equilibrium layers, and interval
        for others. smoothing takes any network, and certifies its majority answer under noise.
    :param sigma: Standard deviation of the noise of smoothing; by default 0.25.
    :param attack_steps: Steps of PGD at every eps; 0 for no attack. Smoothing is not attacked.
    :param restarts: How often PGD starts anew.
    """
    checks.unclaimed(out, resume=None)
    smooth = certifier == "smoothing"
    if sigma is not None and not smooth:
        checks.without_effect(["sigma"], on=f"--certifier {certifier}")
    certifies = _certifier(certifier, SIGMA if sigma is None else sigma)
    kind = data.L2 if smooth else data.Linf
    balls = [kind(radius) for radius in words.parse_numbers(eps, "eps")]
    evaluation = load_samples(samples)
    network = load_network(model, checkpoint)
    if certifies is None:
        implicit = bool(models.equilibria(network))
        certifies = certification.MixedMonotone() if implicit else certification.Interval()
    attack = None if smooth or not attack_steps else _pgd(attack_steps, restarts)
    origin = evidence.network_provenance(0, {"data": evaluation}, checkpoint)
    identity = {
        "command": "certify",
        "model": model.spec,
        "checkpoint": runs.file_sha256(checkpoint),
        "data": evaluation.sha256,
        "eps": eps,
        "certifier": runs.identity_of(certifies),
        "attack_steps": attack_steps,
        "restarts": restarts,
    }
    with runs.claimed(out, identity, resume=None):
        report = evidence.certificates(
            network,
            evaluation,
            certifies,
            balls,
            attack,
            network=checkpoint.name,
            provenance=origin,
        )
        written, page = evidence.write_report(report, out)
    say(_table(report))
    say(report.verdict)
    say(f"wrote {written} and {page}")


def _certifier(name: CertifierName, sigma: float) -> Certifier | None:
    """Return the certifier of that name; None where the network decides."""
    if name == "auto":
        return None
    if name == "smoothing":
        return certification.Smoothing(sigma)
    kinds: dict[str, Callable[[], Certifier]] = {
        "mixed-monotone": certification.MixedMonotone,
        "interval": certification.Interval,
        "lipschitz": certification.Lipschitz,
    }
    return kinds[name]()


def _pgd(steps: int, restarts: int) -> Callable[[Ball], Attack]:
    attacks.PGD(data.Linf(0.0), steps=steps, restarts=restarts)  # refuses what is no attack
    return lambda ball: attacks.PGD(ball, steps=steps, restarts=restarts)


def _table(report: Certificates) -> Table:
    """Return one row for every eps."""
    shown = evidence.words.format_value
    rows = []
    for row in report.rows:
        attacked = "" if row.attacked is None else shown(row.attacked).main
        gap = "" if row.gap is None else runs.percent(row.gap)
        time = "" if row.seconds_per_sample is None else f"{1000 * row.seconds_per_sample:.3g}"
        rows.append((f"{row.eps:g}", shown(row.certified).main, attacked, gap, time))
    heads = ("eps", "certified", "under attack", "gap", "ms a sample")
    return evidence.tables.terminal_table(heads, rows)
