"""Folders in which the steps of the command line have been taken once."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_line import MODEL, TRIGGER, isthmus


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder in which every step has been taken once: poison, train, train."""
    folder = tmp_path_factory.mktemp("home")
    done = [
        isthmus("poison", "digits:train", *TRIGGER, "--out", "bad.npz", folder=folder),
        *(
            isthmus(
                "train",
                "--model",
                MODEL,
                "--data",
                "bad.npz",
                "--out",
                f"{name}.safetensors",
                "--steps",
                150,
                "--lr",
                0.2,
                "--seed",
                seed,
                folder=folder,
            )
            for seed, name in enumerate("ab")
        ),
    ]
    for each in done:
        assert each.returncode == 0, each.stderr
    return folder


@pytest.fixture(scope="session")
def straight(home):
    """The folder, with a curve without bends in it, straight.safetensors."""
    files = ("a.safetensors", "b.safetensors", "--out", "straight.safetensors")
    samples = ("--model", MODEL, "--clean", "digits:test")
    connected = isthmus("connect", *files, *samples, "--bends", 0, folder=home)
    assert connected.returncode == 0, connected.stderr
    return home


class Code:
    def __reduce__(self):
        return (open, ("executed", "w"))


def write_bad_files(folder):
    good = load_file(folder / "a.safetensors")
    (folder / "code.pt").write_bytes(pickle.dumps(Code()))
    (folder / "cut.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:900])
    name = next(k for k, v in good.items() if v.ndim == 4)
    save_file({k: v for k, v in good.items() if k != name}, folder / "missing.safetensors")
    save_file({**good, "extra.weight": torch.ones(2)}, folder / "extra.safetensors")
    save_file({**good, name: torch.ones(3, 3)}, folder / "shape.safetensors")
    save_file({**good, name: torch.full_like(good[name], float("nan"))}, folder / "nan.safetensors")
    save_file(
        {**good, "head.weight": torch.zeros_like(good["head.weight"])},
        folder / "chance.safetensors",
    )
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    labels = np.arange(40) % 10
    arrays = {
        "ok": (images, labels),
        "empty": (images[:0], labels[:0]),
        "few": (images[:5], labels[:5]),
        "label": (images, labels + 7),
        "half": (images, labels + 0.5),
        "range": (images * 255, labels),
        "flat": (images[:, 0, 0], labels),
        "color": (np.repeat(images, 3, 1), labels),
    }
    for key, (x, y) in arrays.items():
        np.savez(folder / f"{key}.npz", x=x, y=y, classes=10)
    return name


@pytest.fixture(scope="session")
def spoiled(home):
    return home, write_bad_files(home)
