"""Table: what `repair` hands over when nothing is said, on the networks of the bake-off, which do
not fit their data.

    isthmus sweep experiments/defaults.toml --set data=DIR    a file per job, and the table
    isthmus sweep experiments/defaults.toml --gather          to docs/results/defaults.md

DIR holds train.parquet and test.parquet of CIFAR-10 in the Hugging Face layout. A job is an
attacker of `attackers.py` at the scale `small`, and a seed. The network is repaired with bonafide
images that are not the attacker's, n of them, by the default and by FT-SAM at the setting that was
best in the bake-off; test images judge. The default is judged along every way that it followed,
FT-SAM along the segment to its result. What the default hands over is judged once more with its
BatchNorm statistics recalibrated on the same images, which wakes backdoors that are merely asleep.
"""

from __future__ import annotations

from typing import Any

from attackers import ATTACKS, drawn
from bakeoff import pools
from command import parts, slug, use_threads
from pages import grouped
from scale import SCALES, averaged
from trained import COSTS, best_within, judged_ways, rival_along, text

from isthmus import recalibrate, repair, split
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, RecoveryAccuracy, as_records, measure, planted
from isthmus.models.view import copied
from isthmus.types import Metric

SCALE = SCALES["small"]
RIVAL = "FT-SAM rho 4 lr 0.05"


def job_name(attack: str, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{slug(attack)}-seed{seed}"


def run(attack: str, seed: int, n: list[int], judged: int, data: str) -> dict[str, Any]:
    """Attack a network, and repair it with each number of images."""
    use_threads()
    train, test = (averaged(part, SCALE.side) for part in parts(data))
    bonafide, theirs = pools(train, seed)
    (test,) = split(test, [judged], drawn(seed))
    sent = ATTACKS[attack](theirs, SCALE, seed)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(test),
        "attack success": AttackSuccess(test, sent.trigger, sent.target),
        "recovery": RecoveryAccuracy(test, sent.trigger, sent.target),
    }
    planted(sent.network, test, sent.trigger, sent.target, least=0.5)
    record: dict[str, Any] = {"attack": attack, "seed": seed}
    record["as received"] = as_records(measure(sent.network, judges))
    record["sizes"] = {}
    for size in n:
        some = bonafide[:size]
        repaired = repair(sent.network, some, seed=seed)
        rival = rival_along(RIVAL, sent.network, some, seed)
        record["sizes"][str(size)] = {
            "t": float(repaired.t),
            "gradients": repaired.gradients,
            "repaired": as_records(measure(repaired.model, judges)),
            "recalibrated": as_records(measure(recalibrate(copied(repaired.model), some), judges)),
            "ways": judged_ways(repaired, judges),
            "rival": {t: as_records(measure(net, judges)) for t, net in rival.items()},
        }
    record["provenance"] = provenance(seed, {"bonafide": bonafide, "judged": test}).record()
    return record


def row(records: list[dict[str, Any]], size: str) -> list[str]:
    """Return the cells of one network at one number of images."""
    (record,) = records
    done = record["sizes"][size]
    cells = [text(done["repaired"]), text(done["recalibrated"])]
    cells += [f"{done['t']:g}", f"{done['gradients']:,}"]
    ours = [values for way in done["ways"] for values in way["points"].values()]
    for points in (ours, done["rival"].values()):
        best = [best_within(record["as received"], points, cost) for cost in COSTS[1:]]
        cells += [text(values) if values else "none" for values in best]
    return cells


def table(records: list[dict[str, Any]]) -> str:
    """Return the results page."""
    costs = [f"{100 * cost:g} points" for cost in COSTS[1:]]
    heads = ["attacker", "seed", "n", "as received", "by default", "recalibrated", "t", "gradients"]
    heads += [f"{who}, best within {cost}" for who in ("its ways", "FT-SAM") for cost in costs]
    lines = [
        "# What `repair` hands over by default, on networks that do not fit their data",
        "",
        "PreActResNet-8 on CIFAR-10 at 16x16 pixels, as in the bake-off. Percent of 3,000 test",
        "images: accuracy / attack success / recovery accuracy. What is best within a cost is",
        "picked with the trigger. Made by `isthmus sweep experiments/defaults.toml --gather`.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for (attack, seed), group in grouped(records, "attack", "seed").items():
        for size in group[0]["sizes"]:
            first = [attack, str(seed), size, text(group[0]["as received"])]
            lines.append(f"| {' | '.join([*first, *row(group, size)])} |")
    return "\n".join(lines) + "\n"
