"""The networks that experiments begin from, trained once for a scale and kept: standard ones and
robust ones.

    python experiments/ends.py --data DIR --scale small [--kinds robust] [--numbers 0 1]

Experiments ask for the ends that they need, so running this first only shares the work among
processes. Weights are in weights/ends/SCALE, what the ends can do in results/ends/SCALE. Whatever
is done already is not done again.
"""

from __future__ import annotations

import time
from pathlib import Path

from command import Sets, parser
from scale import BALL, SCALES
from torch import nn

from isthmus import Data, RobustAccuracy
from isthmus.attacks import PGD
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, as_records, measure
from isthmus.models import load_checkpoint, save_checkpoint
from isthmus.runs import write_json

KINDS = ("standard", "robust")
JUDGED = 1000
JUDGE = PGD(BALL, steps=10, returns="worst")


def end(kind: str, number: int, name: str, train: Data, test: Data) -> nn.Module:
    """Return one end of a scale, of standard or adversarial training; train it and write what it
    can do if need be.
    """
    scale, file = SCALES[name], Path("weights/ends") / name / f"{kind}-{number}.safetensors"
    if file.exists():
        return load_checkpoint(file, scale.network())
    seed, began, asked = number + 1000 * (kind == "robust"), time.perf_counter(), test[:JUDGED]
    net = scale.trained(train, seed, scale.losses()[kind])
    seconds = time.perf_counter() - began
    found = measure(
        net, {"accuracy": Accuracy(test), "robust accuracy": RobustAccuracy(asked, JUDGE)}
    )
    record = {
        "kind": kind,
        "number": number,
        "seed": seed,
        "seconds": seconds,
        "provenance": provenance(seed, {"train": train, "test": test}).record(),
        **as_records(found),
    }
    write_json(Path("results/ends") / name / f"{kind}-{number}.json", record)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(net, file)
    return net


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options.add_argument("--numbers", type=int, nargs="+", default=range(6))
    args = options.parse_args()
    sets = Sets(args)
    for number in args.numbers:
        for kind in args.kinds:
            end(kind, number, args.scale, sets.train, sets.test)


if __name__ == "__main__":
    main()
