"""Records for the tests of the report: a full one, the same with parts taken away, and one with
hostile names.
"""

import copy
import json
from pathlib import Path

from isthmus.metrics import Path as Path_
from isthmus.metrics import Rate, as_record, landscape
from isthmus.metrics.names import LANDSCAPE
from isthmus.metrics.values import Mean

EXAMPLE = Path(__file__).with_name("report_example.json")  # figures made up for these tests
HOSTILE = (
    '<script>parent.harmed = 1</script> & "$x^2$" | *a* `b` [link](http://example.org) ]]> <!--'
)


def example():
    return json.loads(EXAMPLE.read_text())


def classes(record, names):
    for part, hits in (("before", 19), ("after", 18)):
        rates = [as_record(Rate(hits - i, 20)) for i in range(7)]
        record[part]["per_class"] = {name: rates[i % 7] for i, name in enumerate(names)}


def points(record, count):
    """The same path measured at `count` equally spaced t."""
    path = record["path"]
    index = [round(i * 10 / (count - 1)) for i in range(count)]
    path["t"] = [i / (count - 1) for i in range(count)]
    path["distance"] = [path["distance"][i] for i in index]
    path["values"] = {name: [series[i] for i in index] for name, series in path["values"].items()}


def variant(
    record, *, trigger=True, evaluation=True, baselines=True, confident=True, count=11, names=None
):
    """The example with parts taken away, as a repair without them would leave it."""
    record = copy.deepcopy(record)
    gone = ([] if trigger else ["attack success"]) + ([] if evaluation else ["accuracy", "loss"])
    woken = record["permanence"]["reactivation"]
    compressed = record["permanence"]["compressed"]
    for part in (
        record["before"],
        record["after"],
        record["path"]["values"],
        *record["baselines"],
        *woken,
        *(part[side] for part in compressed for side in ("received", "repaired")),
    ):
        for name in gone:
            part.pop(name, None)
    if not trigger:
        del record["trigger"], record["permanence"]["reactivation"]
        del record["permanence"]["queries"]
        record["examples"] = [image for image in record["examples"] if image["kind"] != "triggered"]
    if not evaluation:
        del record["provenance"]["data"]["evaluation"]
    if not baselines:
        for name in ("examples", "found_trigger", "trainings", "preflight", "answers"):
            del record[name]
        record["baselines"], record["limits"], record["curve"]["losses"] = [], [], []
        del record["provenance"]["checkpoint"], record["provenance"]["command"]
    if names is not None:
        classes(record, names)
    record["choice"]["confident"] = confident
    points(record, count)
    return record


def surrounded(record):
    """The example with a landscape, its figures made up."""
    record = copy.deepcopy(record)
    ts = tuple(record["path"]["t"])
    humps = [4 * t * (1 - t) for t in ts]
    values = {
        n: tuple(Mean(0.2 + k * h, 100, 0.5, (0.1, 0.2, 0.9)) for h in humps)
        for k, n in enumerate(LANDSCAPE)
    }
    for name in ("error", "evasion success"):
        values[name] = tuple(Rate(round(20 + 60 * h), 100) for h in humps)
    record["landscape"] = landscape.record(
        Path_(ts, ts, values, 1.0, ""), "PGD(ball=Linf(eps=0.03), steps=10)"
    )
    return record


def hostile(record):
    """The example with every text that a user may have named replaced."""
    record = variant(record, names=[HOSTILE, f"2 {HOSTILE}"])
    for part, names in (
        (record, ["title", "verdict"]),
        (record["choice"], ["rule", "reason"]),
        (record["trigger"], ["trigger", "target", "note"]),
        (record["provenance"], ["command", "platform", "time", "recalibrated_on", "isthmus"]),
        (record["provenance"]["checkpoint"], ["path"]),
        (record["provenance"]["other"], ["kind"]),
        (record["path"], ["recalibrated_on"]),
        (record["curve"], ["kind"]),
        (record["baselines"][0], ["name", "settings"]),
        (record["examples"][0], ["label", "before", "after"]),
        (record["found_trigger"], ["kind", "target", "decision", "reason"]),
        (record["trainings"][0], ["name", "precision"]),
        (record["preflight"]["findings"][0], ["text"]),
    ):
        part.update(dict.fromkeys(names, HOSTILE))
    record["limits"] = [HOSTILE]
    record["provenance"]["data"] = {HOSTILE: record["provenance"]["data"]["bonafide"]}
    record["provenance"][HOSTILE] = {HOSTILE: HOSTILE}
    record["path"]["values"][HOSTILE] = record["path"]["values"]["accuracy"]
    record["after"][HOSTILE] = record["after"]["accuracy"]
    return record
