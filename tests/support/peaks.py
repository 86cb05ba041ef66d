"""Run as a script: what evaluating the images of a folder takes, as JSON. `memory` is the peak of
what the process cannot give back, in MB; pages of mapped files are the system's, which takes them
when others need memory.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[2]


def held():
    """What this process holds apart from files, in MB."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def evaluated(folder, *, in_memory, part, **environment):
    """What `main` prints in a process of its own, whose limits of memory are these."""
    command = [sys.executable, __file__, str(folder), str(in_memory), str(part)]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)
    return json.loads(run.stdout)


def main():
    import torch
    from torch import nn

    from isthmus.attacks import Patch
    from isthmus.data import load_data, mapped
    from isthmus.data.splits import among
    from isthmus.metrics import Accuracy, AttackSuccess, measure

    peaks = [held()]

    def watch():
        while True:
            peaks.append(held())
            time.sleep(0.002)

    mapped.IN_MEMORY, mapped.PART = int(sys.argv[2]), int(sys.argv[3])
    torch.manual_seed(0)
    Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    data = load_data(sys.argv[1])
    net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.LazyLinear(data.num_classes))
    net(data[:2].floats())
    questions = {"accuracy": Accuracy(data), "success": AttackSuccess(data, Patch(), 1)}
    values = measure(net, questions)
    found = {"sha256": data.sha256, "among": int(among(data, data[::2]).sum())}
    taken = {"memory": max(peaks), "seconds": time.monotonic() - began}
    print(json.dumps({**found, **{name: float(v) for name, v in values.items()}, **taken}))


if __name__ == "__main__":
    main()
