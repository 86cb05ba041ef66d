"""Table: what `bakeoff.py` found, by one rule for all, on the frontier, and network by network.

    python experiments/bakeoff_tables.py --scale small [--without badnets-seed0 ...]
        docs/results/bakeoff.md

A defender takes the strongest setting within five points of the received network's held-out
accuracy, or the strongest that held-out samples do not show to cost more than eight, which is
`repair`'s own rule. The frontier is an oracle's: it asks the judges. `--without` leaves networks
out, such as those that settings were chosen on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median, stdev
from typing import Any

from attackers import ADAPTIVE
from bakeoff import (
    BEFOREHAND,
    CONTROL,
    GRID,
    RESULTS,
    SHARES,
    SIZES,
    STRAIGHT,
    STRONGEST,
    WHOLE,
    WOKEN,
    Rows,
)
from command import parser
from scale import SCALES
from scipy.stats import t as student

from isthmus.attacks import IMAGES
from isthmus.defenses import BONAFIDE, FAR
from isthmus.metrics import from_record, least_drop
from isthmus.runs import read_json

TOLERANCE, BEARABLE = 0.05, 0.08  # of held-out accuracy, by the first rule and by the second
NEAR = GRID[:7]  # t shown in tables
CAPPED = f"path, t up to {FAR:g}"  # as `repair` does by default
FEW = 1000  # with fewer samples a curve overfits, and the mean of two repairs is ahead


def tried(rows: Rows, name: str) -> Rows:
    """Return what a family made, weakest first: its settings, or the points of a path."""
    if "judged" not in rows[name]:
        return [row for row in rows[name] if "refused" not in row]
    path, last = (
        rows[name],
        name == STRAIGHT or name in WHOLE,
    )  # the other paths end in a network with the backdoor
    seen, judged = (path[part]["values"] for part in ("seen", "judged"))
    return [
        {
            "setting": t,
            BONAFIDE: seen[BONAFIDE][i],
            **{metric: values[i] for metric, values in judged.items()},
        }
        for i, t in enumerate(path["seen"]["t"])
        if 0 < t < 1 or (last and t == 1)
    ]


def at(path: Rows, t: float) -> dict[str, Any]:
    """Return what the judges say at one t."""
    return {
        name: values[path["judged"]["t"].index(t)]
        for name, values in path["judged"]["values"].items()
    }


def with_capped(rows: Rows) -> Rows:
    """Return the rows of a network with those of its path up to the t that `repair` would not
    pass.
    """
    if "path" not in rows:
        return rows
    seen = rows["path"]["seen"]
    return {
        CAPPED: {**rows["path"], "seen": {**seen, "t": [t for t in seen["t"] if t <= FAR]}},
        **rows,
    }


def within(before: float, after: float) -> bool:
    """Whether a defender's figure for accuracy has fallen by five points or less."""
    return before - after <= TOLERANCE


def bearable(before: float, after: float) -> bool:
    """Whether the defender's samples leave it open that accuracy has fallen by eight points or
    less.
    """
    return least_drop(before, after) <= BEARABLE


RULES: dict[str, Callable[[float, float], bool]] = {
    "the strongest setting within five points of held-out accuracy": within,
    "the strongest setting that held-out samples do not show to cost more than "
    "eight points": bearable,
}


def chosen(
    rows: Rows, name: str, allowed: Callable[[float, float], bool] = bearable
) -> dict[str, Any] | None:
    """Return the strongest of the allowed settings, else the most accurate: one rule for all."""
    found = tried(rows, name)
    before = from_record(rows["as received"][BONAFIDE])
    left = [row for row in found if allowed(before, from_record(row[BONAFIDE]))]
    return (left or sorted(found, key=lambda row: row[BONAFIDE]["value"]) or [None])[-1]


def least_success(rows: Rows, name: str, points: float) -> float | None:
    """Return the lowest attack success of any setting within `points` of the received accuracy:
    an oracle.
    """
    enough = rows["as received"]["accuracy"]["value"] - points / 100
    found = [
        row["attack success"]["value"]
        for row in tried(rows, name)
        if row["accuracy"]["value"] >= enough
    ]
    return min(found, default=None)


def der(before: dict[str, Any], row: dict[str, Any]) -> float:
    """Defense effectiveness rating, a share (Zhu et al., ICCV 2023)."""
    fell = {
        name: before[name]["value"] - row[name]["value"] for name in ("accuracy", "attack success")
    }
    return (max(0.0, fell["attack success"]) - max(0.0, fell["accuracy"]) + 1) / 2


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % interval over networks (Student's t), of figures in percent; two
    networks have none.
    """
    if len(values) < 3:
        return f"{mean(values):.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.1f} ± {half:.1f}"


def by_rule(jobs: Rows, n: str, allowed: Callable[[float, float], bool]) -> list[str]:
    """The choices that a defender can make."""
    lines = [
        "| defense | networks | accuracy | ASR, mean | ASR, worst | DER | seconds, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names_of_all(jobs, n):
        all_rows = having(jobs, n, name)
        pairs = [
            (rows["as received"], found)
            for rows in all_rows
            if (found := chosen(rows, name, allowed))
        ]
        if not pairs:
            continue
        figures = [
            [100 * row[metric]["value"] for _, row in pairs]
            for metric in ("accuracy", "attack success")
        ]
        rating = [100 * der(*pair) for pair in pairs]
        seconds = median(spent(rows[name]) for rows in all_rows)
        lines.append(
            f"| {name} | {len(pairs)} | {interval(figures[0])} | {interval(figures[1])} | "
            f"{max(figures[1]):.1f} | {interval(rating)} | {seconds:.0f} |"
        )
    return lines


def paired(jobs: Rows, n: str) -> list[str]:
    """The path less every other defense, network by network: what a difference of means cannot
    show.
    """
    ours = STRAIGHT if int(n) < FEW else CAPPED
    lines = [
        f"### n = {n}: '{ours}' less the others, by the second rule, in points",
        "",
        "| less | networks | accuracy | ASR | lower / higher on | DER |",
        "|---|---|---|---|---|---|",
    ]
    for name in names_in(jobs, n):
        both = [job["sizes"][n] for job in jobs if {ours, name} <= job["sizes"].get(n, {}).keys()]
        rows = [
            (r["as received"], chosen(r, ours), other) for r in both if (other := chosen(r, name))
        ]
        if name == ours or len(rows) < 2:
            continue
        gaps = [
            [100 * (mine[of]["value"] - theirs[of]["value"]) for _, mine, theirs in rows]
            for of in ("accuracy", "attack success")
        ]
        rating = [100 * (der(before, mine) - der(before, theirs)) for before, mine, theirs in rows]
        lower, higher = (sum(sign * gap > 0 for gap in gaps[1]) for sign in (-1, 1))
        lines.append(
            f"| {name} | {len(rows)} | {interval(gaps[0])} | {interval(gaps[1])} | {lower} / "
            f"{higher} | "
            f"{interval(rating)} |"
        )
    return ["", *lines]


def woken(jobs: Rows) -> list[str]:
    """What a few triggered images bring back of a backdoor, beside a network that never had one."""
    n = str(max(SIZES))
    head = [
        "",
        f"### Re-activation, n = {n}: ASR after retuning with few triggered images; "
        "barrier in nats",
        "",
        "| attack, seed | network | before | "
        + " | ".join(f"{k} images" for k in IMAGES)
        + " | barrier |",
        "|---|---|---|" + "---|" * len(IMAGES) + "---|",
    ]
    lines = []
    for job in jobs:
        for name in WOKEN:
            found = job["sizes"].get(n, {}).get(name, {})
            if again := found.get("re-activation"):
                asleep = at(found, 1.0 if name in WHOLE else FAR) if "judged" in found else found
                rows = [asleep, *(again[f"{k} images"] for k in IMAGES)]
                shown = " | ".join(f"{100 * row['attack success']['value']:.1f}" for row in rows)
                lines.append(
                    f"| {job['attack']}, {job['seed']} | {name} | {shown} | "
                    f"{again['barrier']:.2f} |"
                )
    return head + lines if lines else []


def spent(found: Any) -> float:
    rows = [found] if isinstance(found, dict) else found
    return sum(float(row.get("seconds", 0.0)) for row in rows)


def frontier(jobs: Rows, n: str) -> list[str]:
    """What the best setting could do, by how much accuracy it may cost: an oracle, kept apart."""
    budgets = (2, 3, 4, 5, 7)
    lines = [
        "| defense | " + " | ".join(f"within {points} points" for points in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    for name in names_of_all(jobs, n):
        cells, rows = [], having(jobs, n, name)
        for points in budgets:
            # where no setting keeps that accuracy, the backdoor stays as it was received
            got = [
                100
                * (
                    each
                    if (each := least_success(r, name, points)) is not None
                    else r["as received"]["attack success"]["value"]
                )
                for r in rows
            ]
            cells.append(f"{mean(got):.1f} (worst {max(got):.1f})" if got else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def names_in(jobs: Rows, n: str) -> list[str]:
    names = dict.fromkeys(
        name for job in jobs for name in job["sizes"].get(n, {}) if name != "as received"
    )
    return [name for name in names if "budget" not in name and name not in (BEFOREHAND, CONTROL)]


def names_of_all(jobs: Rows, n: str) -> list[str]:
    """Return the defenses that every network met: means over different networks say nothing about
    defenses.
    """
    met = [job["sizes"][n] for job in jobs if "as received" in job["sizes"].get(n, {})]
    return [name for name in names_in(jobs, n) if all(name in rows for rows in met)]


def having(jobs: Rows, n: str, name: str) -> Rows:
    """Return the rows of the jobs that ran a defense."""
    return [job["sizes"][n] for job in jobs if name in job["sizes"].get(n, {})]


def table(scale: str, without: Sequence[str] = ()) -> str:
    """Every defense over all attacked networks, by number of bonafide samples."""
    files = [file for file in sorted((RESULTS / scale).glob("*.json")) if file.stem not in without]
    jobs = [read_json(file) for file in files]
    for job in jobs:
        job["sizes"] = {n: with_capped(rows) for n, rows in job["sizes"].items()}
    done, weak = (
        [job for job in jobs if "refused" not in job],
        [job for job in jobs if "refused" in job],
    )
    lines = [
        f"## Scale: {scale}",
        "",
        f"{len(done)} attacked networks; {SCALES[scale].gradients} gradient evaluations "
        "for each defense, its tries included.",
        "",
    ]
    lines += [f"Left out: {job['attack']}, seed {job['seed']}: {job['refused']}." for job in weak]
    lines += ["", "| attack | seed | as received: accuracy / ASR |", "|---|---|---|"]
    for job in done:
        accuracy, success = (
            100 * job["as received"][name]["value"] for name in ("accuracy", "attack success")
        )
        lines.append(f"| {job['attack']} | {job['seed']} | {accuracy:.1f} / {success:.1f} |")
    judged = [job for job in done if job["attack"] not in ADAPTIVE]
    sizes = {int(n) for job in judged for n, rows in job["sizes"].items() if "as received" in rows}
    for n in map(str, sorted(sizes, reverse=True)):
        for rule, allowed in RULES.items():
            lines += ["", f"### n = {n}: {rule}", "", *by_rule(judged, n, allowed)]
        lines += paired(judged, n)
        lines += [
            "",
            f"### n = {n}: frontier (oracle): least ASR by accuracy given up",
            "",
            *frontier(judged, n),
        ]
        lines += [
            "",
            f"### n = {n}: setting by setting, accuracy / ASR (worst)",
            "",
            *by_setting(judged, n),
        ]
    lines += [*fewer_gradients(judged), *whole(judged), *woken(judged)]
    for n in map(str, SIZES):
        lines += [*attackers_who_know(done, n), *one_by_one(judged, n)]
    return "\n".join(lines)


def averaged(rows: Rows) -> str:
    """Return mean accuracy / mean attack success (worst) of one setting over networks, in
    percent.
    """
    accuracy, success = (
        [100 * row[metric]["value"] for row in rows] for metric in ("accuracy", "attack success")
    )
    return f"{mean(accuracy):.1f} / {mean(success):.1f} ({max(success):.1f})"


def by_setting(jobs: Rows, n: str) -> list[str]:
    """The paths, one of them at the nearer t, and every setting of the strongest rivals."""
    lines = ["| defense | setting | networks | accuracy / ASR (worst) |", "|---|---|---|---|"]
    for name in ("path", STRAIGHT, *STRONGEST, *WHOLE):
        groups: dict[float, Rows] = {}
        for rows in having(jobs, n, name):
            for row in tried(rows, name):
                groups.setdefault(row["setting"], []).append(row)
        for setting, found in groups.items():
            if name != "path" or setting in NEAR:
                lines.append(f"| {name} | {setting:g} | {len(found)} | {averaged(found)} |")
    return lines


def fewer_gradients(jobs: Rows) -> list[str]:
    """The path with a part of the budget: how few gradient evaluations repair."""
    n = str(max(SIZES))
    names = [*(f"path, {share:g} of the budget" for share in SHARES), "path"]
    jobs = [job for job in jobs if all(name in job["sizes"].get(n, {}) for name in names)]
    if not jobs:
        return []
    lines = [
        "",
        f"### Fewer gradients, n = {n}, {len(jobs)} networks: accuracy / ASR (worst)",
        "",
        "| share | " + " | ".join(f"t = {t:g}" for t in NEAR) + " |",
        "|---|" + "---|" * len(NEAR),
    ]
    for share, name in zip((*SHARES, 1), names, strict=True):
        points = [
            [row for job in jobs for row in tried(job["sizes"][n], name) if row["setting"] == t]
            for t in NEAR
        ]
        lines.append(f"| {share:g} | " + " | ".join(map(averaged, points)) + " |")
    return lines


def whole(jobs: Rows) -> list[str]:
    """The paths, and rivals who spend all on one setting and have their line to the received
    network: same networks.
    """
    lines = []
    for n in map(str, SIZES):
        met = [job for job in jobs if all(name in job["sizes"].get(n, {}) for name in WHOLE)]
        if met:
            said = f"### Rivals who spend all on one setting, n = {n}"
            lines += ["", f"{said}: by the second rule", "", *by_rule(met, n, bearable)]
            lines += ["", f"{said}: frontier (oracle)", "", *frontier(met, n)]
    return lines


def attackers_who_know(jobs: Rows, n: str) -> list[str]:
    """What survives of the backdoors of those who know of the defense: accuracy / ASR, chosen by
    the second rule.
    """
    jobs = [job for job in jobs if job["attack"] in ADAPTIVE]
    lines = [
        "",
        f"### Attackers who know of the defense, n = {n}: by the second rule, accuracy / ASR",
        "",
    ]
    return lines + cells(jobs, n) if jobs else []


def one_by_one(jobs: Rows, n: str) -> list[str]:
    """Every attack on its own: accuracy / ASR, chosen by the second rule."""
    return ["", f"### One by one, n = {n}: by the second rule, accuracy / ASR", "", *cells(jobs, n)]


def cells(jobs: Rows, n: str) -> list[str]:
    """One column for each attacked network."""
    lines = ["| defense | " + " | ".join(f"{job['attack']}, {job['seed']}" for job in jobs) + " |"]
    lines += ["|---|" + "---|" * len(jobs)]
    for name in names_in(jobs, n):
        made = [job["sizes"].get(n, {}) for job in jobs]
        found = [
            chosen(rows, name) if having([job], n, name) else None
            for job, rows in zip(jobs, made, strict=True)
        ]
        shown = [
            " / ".join(f"{100 * row[m]['value']:.1f}" for m in ("accuracy", "attack success"))
            if row
            else ""
            for row in found
        ]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--without", nargs="+", default=(), metavar="JOB", help="names of result files left out"
    )
    args = options.parse_args()
    print(table(args.scale, args.without))


if __name__ == "__main__":
    main()
