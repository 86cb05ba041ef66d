"""Data sets by name: the digits that come with scikit-learn, and sets downloaded from the hub."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from isthmus.data.dataset import Data
from isthmus.data.sources.encoded import Encoded
from isthmus.data.sources.parquet import read_parquet
from isthmus.data.sources.reading import Classes, optional_package, reason_of, relabeled
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput

# Name: repository on the Hugging Face hub, folder in it. Each part is one Parquet file there.
HUB = {
    "cifar10": ("uoft-cs/cifar10", "plain_text"),
    "cifar100": ("uoft-cs/cifar100", "cifar100"),
    "mnist": ("ylecun/mnist", "mnist"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "fashion_mnist"),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
}


PARTS = ("train", "test")


NAMED = ("digits", *(f"{name}:{part}" for name in ("digits", *HUB) for part in PARTS))


_DIGITS_TRAIN = 1297


# ---- named sets
def _digits(part: str) -> Data:
    """Return scikit-learn's 1,797 digits, (n, 1, 8, 8) in [0, 1]; train and test are fixed,
    disjoint and shuffled.
    """
    digits = import_module("sklearn.datasets").load_digits()
    x = torch.from_numpy(digits.images / 16).float()[:, None]
    # numpy keeps this stream the same for ever; torch does not promise to.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
    chosen = {
        "": torch.arange(len(x)),
        "train": order[:_DIGITS_TRAIN],
        "test": order[_DIGITS_TRAIN:],
    }[part]
    return Data(x, torch.from_numpy(digits.target).long(), 10)[chosen]


def _download(name: str, part: str) -> Path:
    """Return the set's Parquet file, downloaded by the hub's own package, which keeps it."""
    hub = optional_package("huggingface_hub", f"{name}:{part}")
    repository, folder = HUB[name]
    file = f"{folder}/{part}-00000-of-00001.parquet"
    try:
        return Path(hub.hf_hub_download(repository, file, repo_type="dataset"))
    except Exception as error:  # which errors depends on the package's version and its HTTP library
        raise BadInput(
            f"{name}:{part}, which could not be downloaded ({reason_of(error)})",
            expected=f"{repository}/{file} from the Hugging Face hub, or from its cache",
            fix="check the connection, set HF_ENDPOINT to a mirror, or pass a Parquet file",
        ) from error


def read_named(spec: str, classes: Classes) -> Data | Encoded:
    """Return a named set. Raises BadInput where set or part is unknown."""
    name, _, part = spec.partition(":")
    if spec not in NAMED:
        raise BadInput(
            f"unknown data {spec!r}",
            expected="a named set or a path that exists",
            fix=suggestion(spec, NAMED),
        )
    return (
        relabeled(_digits(part), classes)
        if name == "digits"
        else read_parquet([_download(name, part)], classes)
    )
