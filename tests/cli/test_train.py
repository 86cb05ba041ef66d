"""`isthmus train` and `poison`, and the losses of whatever trains."""

import json
from functools import partial

import pytest
import torch
from support.command_line import MODEL, isthmus, refused

from isthmus import fit, load_checkpoint, load_data
from isthmus.models import model_factory
from isthmus.training import one_cycle

TRAIN, CLEAN = ("train", "--data", "digits:train#n=200"), ("--clean", "digits:test#n=200")


CONNECT, REPAIR = (
    ("connect", "a.safetensors", "b.safetensors", *CLEAN),
    ("repair", "a.safetensors", *CLEAN),
)


@pytest.mark.parametrize(
    "verb, loss",
    [
        (TRAIN, "adversarial"),
        (TRAIN, "trades"),
        (TRAIN, "fast"),
        (CONNECT, "fast"),
        (REPAIR, "adversarial"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_whatever_trains_can_be_hardened(verb, loss, home):
    out = f"{verb[0]}-{loss}" + ("" if verb is REPAIR else ".safetensors")
    found = isthmus(
        *verb,
        "--model",
        MODEL,
        "--steps",
        3,
        "--lr",
        0.05,
        "--loss",
        loss,
        "--norm",
        "l2",
        "--eps",
        0.2,
        *(("--points", 2) if verb is REPAIR else ()),
        "--out",
        out,
        folder=home,
    )
    assert found.returncode == 0, found.stderr
    if verb is REPAIR:
        assert (
            "L2(eps=0.2)" in json.loads((home / out / "report.json").read_text())["curve"]["loss"]
        )


@pytest.mark.parametrize(
    "options, says",
    [
        (("--eps", 0.1), "--eps without an attack"),
        (("--loss", "fast", "--attack-steps", 3), "fast"),
        (("--loss", "trades", "--rho", 1), "TRADES"),
        (("--loss", "adversarial", "--beta", 1), "beta"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_losses_without_sense_are_refused_in_one_line(options, says, spoiled):
    for verb in (("connect", "a.safetensors", "a.safetensors"), ("repair", "a.safetensors")):
        assert says in refused(
            spoiled[0],
            *verb,
            "--model",
            MODEL,
            "--clean",
            "digits:test#n=200",
            "--steps",
            2,
            *options,
            "--out",
            "refused",
        )


def test_clean_labels_stay(home):
    found = isthmus(
        "poison",
        "digits:train",
        "--trigger",
        "sinusoid",
        "--target",
        1,
        "--clean-label",
        "--rate",
        0.5,
        "--out",
        "sig.npz",
        folder=home,
    )
    assert found.returncode == 0 and "of 1297 samples changed" in found.stdout, found.stderr


@pytest.mark.parametrize(
    "model, data, says",
    [
        (MODEL, "color.npz", "shape (3, 8, 8)"),
        (f"{MODEL},classes=5", "digits:train", "(2, 10)"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused_before_training(model, data, says, spoiled):
    assert says in refused(
        spoiled[0], "train", "--model", model, "--data", data, "--out", "refused.safetensors"
    )


def test_adamw_is_that_of_torch_at_its_own_rate(home):
    options = ("--model", MODEL, "--steps", 6, "--precision", "fp32", "--weight-decay", 0.01)
    named = ("--optimizer", "adamw", "--out", "adamw.safetensors")
    done = isthmus(*TRAIN, *options, *named, folder=home)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    net = model_factory(MODEL)()
    fit(
        net,
        load_data("digits:train#n=200"),
        steps=6,
        lr=0.001,
        schedule=one_cycle,
        optimizer=partial(torch.optim.AdamW, weight_decay=0.01),
        precision="fp32",
    )
    written = load_checkpoint(home / "adamw.safetensors", model_factory(MODEL)())
    torch.testing.assert_close(written.state_dict(), net.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "factory, says",
    [
        ("one_row", "shape (1, 10)"),
        ("unsaved", "'_extra_state' is no ordinary tensor (dict)"),
        ("two_inputs", "TypeError: "),
    ],
)
def test_networks_that_fail_later_are_refused_before_training(factory, says, tmp_path):
    (tmp_path / "late_networks.py").write_text("""
from torch import nn
class OneRow(nn.Linear):
    def forward(self, x): return super().forward(x.flatten(1))[:1]
class Unsaved(nn.Linear):
    def forward(self, x): return super().forward(x.flatten(1))
    def get_extra_state(self): return {"name": "x"}
def one_row(): return OneRow(64, 10)
def unsaved(): return Unsaved(64, 10)
def two_inputs(): return nn.Bilinear(64, 64, 10)
""")
    model = ("--model", f"late_networks:{factory}", "--data", "digits:train")
    assert says in refused(tmp_path, "train", *model, "--out", "refused.safetensors")
    assert not list(tmp_path.glob("*refused*"))
