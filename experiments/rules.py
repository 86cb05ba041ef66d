"""Table: every rule for t against the oracle, on the paths of the bake-off (specification, section 6; issue 3).

    python experiments/rules.py --scale small          docs/results/rules.md

Reads what `bakeoff.py` wrote: along each path, what the defender sees (held-out accuracy, agreement with the received
network, success of inverted triggers) and what the judges say. A rule sees the first and is judged by the second. The
oracle takes the t of the highest defense effectiveness rating; regret is what a rule leaves more of the backdoor, or
loses more of the accuracy, than that.
"""

from __future__ import annotations

import argparse
from statistics import mean
from typing import Any

from bakeoff import ADAPTIVE, GRID, RESULTS, SIZES, at, der
from scale import SCALES

from isthmus.files import read_json
from isthmus.path import Path
from isthmus.repair import FAR
from isthmus.select import Choice, Rule, farthest_within, fixed, settled, up_to

Rows = Any  # JSON


def rules() -> dict[str, Rule]:
    """The rules, each from what a defender sees along the path."""
    found: dict[str, Rule] = {f"fixed, t = {t:g}": fixed(t) for t in GRID[::2]}
    found |= {f"up to t = {t:g}, at most {100 * d:g} points": up_to(t, d) for t in (0.22, 0.28) for d in (0.05, 0.08)}
    found |= {f"farthest within {100 * d:g} points": farthest_within(d, otherwise=FAR) for d in (0.035, 0.05, 0.08)}
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


def regrets(jobs: Rows, n: str, rule: Rule) -> list[tuple[float, float, bool]]:
    """Return for each path the regret in attack success and in accuracy, in points, and whether the rule was sure."""
    found = []
    for job in jobs:
        path, before = job["sizes"][n]["path"], job["as received"]
        inner = [t for t in path["judged"]["t"] if 0 < t < 1]
        best = at(path, max(inner, key=lambda t: der(before, at(path, t))))
        choice = rule(Path.from_record(path["seen"]))
        mine = at(path, float(choice))
        asr, accuracy = (100 * (mine[name]["value"] - best[name]["value"]) for name in ("attack success", "accuracy"))
        found.append((asr, -accuracy, choice.confident))
    return found


def table(scale: str) -> str:
    """Mean and worst regret of every rule, over all paths."""
    jobs = [read_json(file) for file in sorted((RESULTS / scale).glob("*.json"))]
    jobs = [job for job in jobs if job["attack"] not in ADAPTIVE]
    lines = [f"## Scale: {scale}", ""]
    for n in map(str, SIZES):
        walked = [job for job in jobs if "path" in job.get("sizes", {}).get(n, {})]
        lines += ["", f"### n = {n}: {len(walked)} paths", "",
                  "| rule | sure on | regret in ASR: mean, worst | regret in accuracy: mean, worst | worst sum |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for name, rule in rules().items():
            if not walked or (name.startswith("settled") and n != str(max(SIZES))):
                continue  # stand-ins were watched with the many samples alone
            found = regrets(walked, n, rule)
            asr, accuracy, sure = zip(*found, strict=True)
            both = max(a + max(0.0, b) for a, b in zip(asr, accuracy, strict=True))
            lines.append(f"| {name} | {sum(sure)} | {mean(asr):.1f}, {max(asr):.1f} | {mean(accuracy):.1f}, "
                         f"{max(accuracy):.1f} | {both:.1f} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="small", choices=list(SCALES))
    print(table(parser.parse_args().scale))


if __name__ == "__main__":
    main()
