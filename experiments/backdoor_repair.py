"""Table: repairing a backdoored CIFAR-10 network from clean samples alone (specification, sections 5, 6, 13, 14 E2).

    python experiments/backdoor_repair.py endpoints --data DIR      train the two poisoned ends of each setting
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from isthmus import Augment, Data, fit
from isthmus.files import write_atomically, write_json
from isthmus.metrics import Accuracy, AttackSuccess, as_record, measure
from isthmus.models import preact_resnet
from isthmus.sources import load_data
from isthmus.train import one_cycle
from isthmus.triggers import Patch, Target, poison

TRIGGER, RATE, SEEDS = Patch(), 0.1, (222, 31)
TARGETS: dict[str, Target] = {"single": 1, "all": "all"}
STEPS = 391 * 16


def endpoints(data: Data, test: Data, folder: Path, setting: str, seed: int) -> None:
    """Train one poisoned end; both ends of a setting see the same poisoned data."""
    file = folder / f"{setting}-{seed}.safetensors"
    if file.exists():
        return
    target = TARGETS[setting]
    poisoned = poison(data, TRIGGER, rate=RATE, target=target, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(seed)
    net = preact_resnet(20)
    history = fit(net, poisoned, steps=STEPS, lr=0.2, weight_decay=2e-4, nesterov=True, schedule=one_cycle,
                  augment=Augment(2), seed=seed, checkpoint=file.with_suffix(".state"))
    found = measure(net, {"accuracy": Accuracy(test), "attack success": AttackSuccess(test, TRIGGER, target)})
    write_atomically(file, lambda path: save_file(net.state_dict(), path))
    write_json(file.with_suffix(".json"), {"setting": setting, "seed": seed, "steps": STEPS, "losses": history.losses,
               "seconds": history.seconds, **{name: as_record(value) for name, value in found.items()}})
    file.with_suffix(".state").unlink()


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["endpoints"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = parser.parse_args()
    train, test = (load_data(str(args.data / f"{part}.parquet")) for part in ("train", "test"))
    for setting in TARGETS:
        for seed in args.seeds:
            endpoints(train, test, args.weights, setting, seed)


if __name__ == "__main__":
    main()
