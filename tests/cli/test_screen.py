"""`isthmus screen`: what it names, what it keeps, and what it refuses."""

import json

import pytest
import torch
from support.command_line import MODEL, isthmus, refused

from isthmus import Data, load_data
from isthmus.data import save_npz


@pytest.fixture(scope="module")
def mislabeled(home):
    """600 digits, of which every twentieth has the next class for its label."""
    digits = load_data("digits:train")[:600]
    wrong = torch.arange(600) % 20 == 0
    y = torch.where(wrong, (digits.y + 1) % 10, digits.y)
    save_npz(Data(digits.x, y, digits.classes), home / "mislabeled.npz")
    return home, set(wrong.nonzero()[:, 0].tolist())


def test_wrong_labels_are_named_and_left_out(mislabeled):
    home, wrong = mislabeled
    done = isthmus("screen", "--clean", "mislabeled.npz", "--out", "belonging.npz", folder=home)
    assert done.returncode == 0 and "lie among another class" in done.stdout, done.stderr
    told = isthmus("screen", "--clean", "mislabeled.npz", "--json", folder=home)
    record = json.loads(told.stdout)
    found = {row["index"] for row in record["suspects"] if row["mislabeled"]}
    assert len(found & wrong) >= 15 and len(found - wrong) <= 12
    assert len(load_data(str(home / "belonging.npz"))) == 600 - len(record["suspects"])


def test_features_of_a_network_tell_more_than_pixels(mislabeled):
    home, wrong = mislabeled
    layer = ("a.safetensors", "--model", MODEL, "--layer", "features", "--json")
    told = isthmus("screen", *layer, "--clean", "mislabeled.npz", folder=home)
    found = {row["index"] for row in json.loads(told.stdout)["suspects"] if row["mislabeled"]}
    assert len(found & wrong) >= 24, told.stderr


@pytest.mark.parametrize(
    "options, says",
    [
        (("--layer", "features"), "no checkpoint"),
        (("a.safetensors", "--model", MODEL), "no --layer"),
        (("a.safetensors", "--model", MODEL, "--layer", "feature"), "features"),
        (("--neighbors", 600), "601 samples or more"),
    ],
)
def test_what_does_not_go_together_is_refused(options, says, mislabeled):
    assert says in refused(mislabeled[0], "screen", "--clean", "mislabeled.npz", *options)
