"""Files of every kind that is read, and mutations of them: a reader takes them, or refuses in one
line.
"""

import json
import random
import resource
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.command_line import MODEL

from isthmus import BadInput, Bezier, Data, load_checkpoint, load_data, save_checkpoint
from isthmus.compression import Compressed, prune, quantize
from isthmus.curves import load_curve, save_curve
from isthmus.defenses import read_references
from isthmus.evidence import read_report
from isthmus.models import model_factory
from isthmus.runs import read_sweep

SECONDS, MEMORY = 20, 3 << 30
"""What one input may take, and by how much it may let the process grow."""

BUILD = model_factory(MODEL)
X, Y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10


def _images(folder):
    for label in "ab":
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = (X[0, 0] * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / label / "0.png")
    return folder / "a/0.png"


def _parquet(file):
    import pyarrow
    import pyarrow.parquet

    png = Path(file).with_suffix(".png")
    Image.fromarray((X[0, 0] * 255).byte().numpy()).save(png)
    image = {"bytes": png.read_bytes(), "path": "0.png"}
    table = pyarrow.table({"image": [image] * 4, "label": [0, 1, 0, 1]})
    pyarrow.parquet.write_table(table, file)


def _unpack(file):
    return Compressed.load(file, BUILD())


def seeds(folder):
    """Write one good file of each kind; return, by kind, the file and what reads it."""
    torch.manual_seed(0)
    net = BUILD()
    save_checkpoint(net, folder / "net.safetensors")
    torch.save(net.state_dict(), folder / "net.pt")
    ends = folder / "net.safetensors"
    save_curve(Bezier(net, net, bends=1), folder / "curve.safetensors", start=ends, end=ends)
    data = Data(X, Y, 10)
    prune(net, data, 0.5).save(folder / "pruned.safetensors")
    quantize(net, data, "ternary").save(folder / "quantized.safetensors")
    np.savez(folder / "data.npz", x=X.numpy(), y=Y.numpy(), classes=10)
    _parquet(folder / "data.parquet")
    parts = {"weight_map": dict.fromkeys(net.state_dict(), "net.safetensors")}
    (folder / "net.index.json").write_text(json.dumps(parts))
    report = Path(__file__).with_name("report_example.json")
    (folder / "report.json").write_bytes(report.read_bytes())
    (folder / "sweep.toml").write_text('name = "{a}"\n[[grid]]\na = [1, 2]\n[settings]\nb = 2\n')
    shipped = Path(read_references.__code__.co_filename).with_name("references.json")
    (folder / "references.json").write_bytes(shipped.read_bytes())
    image = _images(folder / "images")
    return {
        "safetensors": (folder / "net.safetensors", lambda f: load_checkpoint(f, BUILD())),
        "torch": (folder / "net.pt", lambda f: load_checkpoint(f, BUILD())),
        "index": (folder / "net.index.json", lambda f: load_checkpoint(f, BUILD())),
        "curve": (folder / "curve.safetensors", lambda f: load_curve(f, BUILD)),
        "npz": (folder / "data.npz", load_data),
        "parquet": (folder / "data.parquet", load_data),
        "image": (image, lambda f: load_data(f.parents[1])),
        "report": (folder / "report.json", read_report),
        "sweep": (folder / "sweep.toml", read_sweep),
        "pruned": (folder / "pruned.safetensors", _unpack),
        "quantized": (folder / "quantized.safetensors", _unpack),
        "references": (folder / "references.json", read_references),
    }


def mutated(data, draws):
    """Return bytes changed in one to four ways: bits, bytes, cuts, repeats, numbers, zeros."""
    data = bytearray(data)
    for _ in range(draws.randint(1, 4)):
        at = (
            draws.randrange(len(data) + 1)
            if draws.random() < 0.5
            else draws.randrange(
                min(len(data), 256) + 1  # headers are where formats break
            )
        )
        size = draws.choice([1, 1, 2, 4, 8, 64, 1024])
        match draws.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << draws.randrange(8)
            case 1:
                data[at : at + size] = draws.randbytes(size)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data = data[:at]
            case 5:
                number = draws.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
                data[at : at + 8] = number.to_bytes(8, draws.choice(["little", "big"]))
            case _:
                data[at : at + size] = bytes(size)
    return bytes(data)


ODD = (None, True, -1, 0, 2**70, 0.5, 1e300, "", "x" * 99, [], {}, [[]], {"": None}, [1, "a"])


def rearranged(data, draws):
    """Return JSON in which one to three values, anywhere, are others or are gone."""
    value = json.loads(data)
    for _ in range(draws.randint(1, 3)):
        places = [(value, key) for key in _keys(value)]
        for holder, key in places:
            places += [(holder[key], inner) for inner in _keys(holder[key])]
        if not places:
            break
        holder, key = draws.choice(places)
        if draws.random() < 0.3:
            del holder[key]
        else:
            holder[key] = draws.choice(ODD)
    return json.dumps(value).encode()


def _keys(value):
    if isinstance(value, dict):
        return list(value)
    return range(len(value)) if isinstance(value, list) else []


class Hang(Exception):
    """A reader that took longer than it may."""


@contextmanager
def limited():
    """Run a block that may take only so long."""

    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(reader, file):
    """Read a file; return in one word what came of it. Raises whatever is no refusal."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(), limited():
        warnings.simplefilter("ignore")
        try:
            reader(file)
            word = "read"
        except BadInput as error:
            assert "\n" not in str(error), f"a refusal of several lines: {error}"
            word = "refused"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    assert grown < MEMORY, f"{grown >> 20} MB more memory"
    return word


def fuzz(kind, file, reader, count, seed):
    """Read `count` mutations of a file; return how many were read and refused."""
    whole, draws = file.read_bytes(), random.Random(f"{kind} {seed}")
    words = {"read": 0, "refused": 0}
    assert read(reader, file) == "read", kind
    try:
        for number in range(count):
            change = rearranged if file.suffix == ".json" and number % 2 else mutated
            changed = change(whole, draws)
            file.write_bytes(changed)
            try:
                words[read(reader, file)] += 1
            except BaseException as error:
                error.add_note(f"{kind}, seed {seed}, mutation {number}: {changed[:120]!r}")
                raise
    finally:
        file.write_bytes(whole)
    return words
