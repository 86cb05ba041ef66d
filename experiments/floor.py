"""Table: what triggers do to networks that were never poisoned: the floor under the attack success
of the bake-off.

    python experiments/floor.py --data DIR --scale small  a section of docs/results/bakeoff.md

The networks are the standard ends of `ends.py`. Errors fall into the target class too, and a
visible trigger covers part of the image, so no repair of an imperfect network reaches zero.
"""

from __future__ import annotations

from attackers import TARGET, patch
from command import Sets, parser
from ends import end
from scale import SCALES, Scale

from isthmus.attacks import Blend, LowFrequency, Sinusoid, Warp
from isthmus.metrics import Accuracy, AttackSuccess, Target
from isthmus.types import Trigger


def asked(scale: Scale) -> dict[str, tuple[Trigger, Target]]:
    """The triggers of the bake-off that are no networks themselves."""
    return {
        "patch": (patch(scale), TARGET),
        "patch, all-to-all": (patch(scale), "all"),
        "blend": (Blend(), TARGET),
        "sinusoid": (Sinusoid(), TARGET),
        "low frequency": (LowFrequency(), TARGET),
        "warp": (Warp(), TARGET),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--numbers", type=int, nargs="+", default=range(6))
    args = options.parse_args()
    sets = Sets(args)
    nets = [end("standard", number, args.scale, sets.train, sets.test) for number in args.numbers]
    accuracy = [100 * float(Accuracy(sets.test)(net)) for net in nets]
    print(f"{len(nets)} networks, accuracy {min(accuracy):.1f} to {max(accuracy):.1f}.", end="\n\n")
    print("| trigger | ASR, mean | least | greatest |", "|---|---|---|---|", sep="\n")
    for name, (trigger, target) in asked(SCALES[args.scale]).items():
        found = [100 * float(AttackSuccess(sets.test, trigger, target)(net)) for net in nets]
        print(f"| {name} | {sum(found) / len(found):.1f} | {min(found):.1f} | {max(found):.1f} |")


if __name__ == "__main__":
    main()
