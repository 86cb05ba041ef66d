"""Table: every rule for t against the oracle, on the paths of the bake-off.

    python experiments/rules.py --scale small          docs/results/rules.md

Reads what `bakeoff.py` wrote: along each path, what the defender sees (held-out accuracy, agreement
with the received network, success of inverted triggers) and what the judges say. A rule sees the
first and is judged by the second. The oracle takes the t of the highest defense effectiveness
rating; regret is what a rule leaves more of the backdoor, or loses more of the accuracy, than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean
from typing import Any

from attackers import ADAPTIVE
from bakeoff import GRID, RESULTS, SIZES, STRAIGHT, STRETCH
from bakeoff_tables import at, der, tried
from scale import SCALES

from isthmus.defenses import FAR, Choice, Rule, farthest_within, fixed, settled, up_to
from isthmus.metrics import Path
from isthmus.runs import read_json

Rows = Any  # JSON


def rules() -> dict[str, Rule]:
    """The rules, each from what a defender sees along the path."""
    found: dict[str, Rule] = {f"fixed, t = {t:g}": fixed(t) for t in GRID}
    found |= {
        f"up to t = {t:g}, at most {100 * d:g} points": up_to(t, d)
        for t in (0.22, 0.28)
        for d in (0.05, 0.08)
    }
    found |= {
        f"farthest within {100 * d:g} points": farthest_within(d, otherwise=FAR)
        for d in (0.035, 0.05, 0.08)
    }
    for of in ("patch", "perturbation", "patch, mean", "perturbation, mean", "agreement"):
        found[f"settled: {of}"] = settled(of, otherwise=FAR)
    both = [settled(of, otherwise=0.1) for of in ("patch", "perturbation")]
    found["settled: both, the farther"] = farther_of(*both)
    return found


def farther_of(*several: Rule) -> Rule:
    """The farthest choice of several rules."""

    def rule(path: Path) -> Choice:
        return max((each(path) for each in several), key=float)

    return rule


def straight_rules() -> dict[str, Rule]:
    """The rules for the straight path of few samples, whose end is a repaired network."""
    found: dict[str, Rule] = {f"fixed, t = {t:g}": fixed(t) for t in STRETCH}
    return found | {f"up to t = 1, at most {100 * d:g} points": up_to(1.0, d) for d in (0.05, 0.08)}


def regrets(jobs: Rows, n: str, rule: Rule, name: str) -> list[tuple[float, float, float, bool]]:
    """Return for each path the regret in attack success, accuracy and DER, in points, and whether
    the rule was sure.
    """
    found = []
    for job in jobs:
        path, before, points = (
            job["sizes"][n][name],
            job["as received"],
            tried(job["sizes"][n], name),
        )
        best = max(points, key=lambda row: der(before, row))
        choice = rule(Path.from_record(path["seen"]))
        mine = at(path, float(choice))
        asr, accuracy = (
            100 * (mine[of]["value"] - best[of]["value"]) for of in ("attack success", "accuracy")
        )
        found.append(
            (asr, -accuracy, 100 * (der(before, best) - der(before, mine)), choice.confident)
        )
    return found


def shown(values: Sequence[float]) -> str:
    """Mean and worst."""
    return f"{mean(values):.1f}, {max(values):.1f}"


def section(jobs: Rows, n: str, name: str, rules: dict[str, Rule]) -> list[str]:
    """Mean and worst regret of every rule, over all paths of one kind."""
    walked = [job for job in jobs if name in job.get("sizes", {}).get(n, {})]
    lines = [
        "",
        f"### n = {n}: {len(walked)} of the bake-off's '{name}'",
        "",
        "| rule | sure on | regret in ASR: mean, worst | in accuracy: mean, worst | worst "
        "sum | in DER |",
        "|---|---|---|---|---|---|",
    ]
    for said, rule in rules.items():
        if not walked or (said.startswith("settled") and n != str(max(SIZES))):
            continue  # stand-ins were watched with the many samples alone
        found = regrets(walked, n, rule, name)
        asr, accuracy, rating, sure = zip(*found, strict=True)
        both = max(
            max(0.0, a) + max(0.0, b) for a, b in zip(asr, accuracy, strict=True)
        )  # one does not buy the other
        lines.append(
            f"| {said} | {sum(sure)} | {shown(asr)} | {shown(accuracy)} | {both:.1f} | "
            f"{shown(rating)} |"
        )
    return lines


def table(scale: str) -> str:
    """The regrets on curves to a permuted copy, and on the straight paths of few samples."""
    jobs = [read_json(file) for file in sorted((RESULTS / scale).glob("*.json"))]
    jobs = [job for job in jobs if job["attack"] not in ADAPTIVE]
    lines = [f"## Scale: {scale}", ""]
    for n in map(str, SIZES):
        lines += section(jobs, n, "path", rules())
    return "\n".join([*lines, *section(jobs, str(min(SIZES)), STRAIGHT, straight_rules())])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", default="small", choices=list(SCALES))
    print(table(parser.parse_args().scale))


if __name__ == "__main__":
    main()
