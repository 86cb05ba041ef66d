"""Curves on disk: the bends once, the endpoints by path and hash."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.refusals import refused
from support.stored import Tied, convolutions, perceptron, same

from isthmus import Bezier, Curve, PolyChain
from isthmus.curves import load_curve, save_curve
from isthmus.models import save_checkpoint
from isthmus.models.checkpoint import read_checkpoint


class Straight(Curve):
    """A user's own curve."""

    def coefficients(self, t):
        return torch.tensor([1 - t, *[0] * len(self.bends), t], dtype=torch.float64)


def frozen_tied():
    net = Tied()
    net.encode.bias.requires_grad_(False)
    return net


@pytest.fixture
def ends(tmp_path):
    """Write two endpoints beside a folder for the curve; return a function that makes them."""

    def write(build):
        nets = [build().eval(), build().eval()]
        files = [
            save_checkpoint(net, tmp_path / f"{name}.safetensors")
            for net, name in zip(nets, "ab", strict=True)
        ]
        return nets, files

    return write


@pytest.mark.parametrize("kind", [Bezier, PolyChain, Straight])
@pytest.mark.parametrize("bends", [0, 1, 3])
@pytest.mark.parametrize("build", [convolutions, frozen_tied, lambda: perceptron().double()])
def test_a_curve_comes_back_as_it_was(kind, bends, build, ends, tmp_path):
    nets, files = ends(build)
    curve = kind(*nets, bends=bends).eval()
    torch.nn.init.normal_(curve.bends)
    file = save_curve(
        curve,
        tmp_path / "runs" / "c.safetensors",
        start=files[0],
        end=files[1],
        metadata={"seed": "1"},
    )
    again = load_curve(file, build)
    assert type(again) is kind and torch.equal(again.bends, curve.bends) and not again.training
    assert all(same(again.export(t), curve.export(t)) for t in (0, 0.3, 1))
    metadata = read_checkpoint(file)[1]
    assert metadata["seed"] == "1" and metadata["start"] == "../a.safetensors"
    assert sum(p.requires_grad for p in again.export(0.5).parameters()) == sum(
        p.requires_grad for p in nets[0].parameters()
    )


def test_a_folder_with_a_curve_may_move(ends, tmp_path, monkeypatch):
    nets, _ = ends(perceptron)
    monkeypatch.chdir(tmp_path)
    save_curve(Bezier(*nets), "c.safetensors", start=Path("a.safetensors"), end="b.safetensors")
    (tmp_path / "moved").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.safetensors").rename(tmp_path / "moved" / f"{name}.safetensors")
    monkeypatch.chdir("/")
    assert same(load_curve(tmp_path / "moved" / "c.safetensors", perceptron).export(0.0), nets[0])


def test_torch_files_serve_as_endpoints_and_bends_alone_are_stored(ends, tmp_path):
    nets, _ = ends(convolutions)
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for net, file in zip(nets, files, strict=True):
        torch.save({"state_dict": {f"module.{n}": v for n, v in net.state_dict().items()}}, file)
    file = save_curve(Bezier(*nets), tmp_path / "c.safetensors", start=files[0], end=files[1])
    assert {n: v.shape[1:] for n, v in read_checkpoint(file)[0].items()} == {
        f"bends.{n}": p.shape for n, p in nets[0].named_parameters()
    }
    assert same(load_curve(file, convolutions).export(1.0), nets[1])


def test_a_curve_with_nothing_to_move_is_kept_too(ends, tmp_path):
    nets, files = ends(lambda: perceptron().requires_grad_(False))
    file = save_curve(
        Bezier(*nets, bends=0), tmp_path / "c.safetensors", start=files[0], end=files[1]
    )
    assert same(load_curve(file, perceptron).export(0.5), Bezier(*nets, bends=0).export(0.5))


def test_endpoints_that_are_gone_or_changed_are_named(ends, tmp_path):
    nets, files = ends(perceptron)
    file = save_curve(Bezier(*nets), tmp_path / "c.safetensors", start=files[0], end=files[1])
    aside = files[1].rename(tmp_path / "aside.safetensors")
    refused(
        lambda: load_curve(file, perceptron),
        "whose end",
        "b.safetensors is not there",
        "pass end=FILE",
    )
    assert same(load_curve(file, perceptron, end=aside).export(1.0), nets[1])
    save_checkpoint(perceptron(), files[1])
    refused(
        lambda: load_curve(file, perceptron),
        "b.safetensors, the end of",
        "has changed (SHA-256",
        "restore it",
    )
    refused(
        lambda: load_curve(file, perceptron, start=aside, end=aside), "the start of", "has changed"
    )


def test_endpoint_files_of_other_networks_are_refused(ends, tmp_path):
    nets, files = ends(perceptron)
    out = tmp_path / "c.safetensors"
    refused(
        lambda: save_curve(Bezier(*nets), out, start=files[1], end=files[0]),
        "other weights than the start",
        "t = 0",
    )
    refused(
        lambda: save_curve(Bezier(*nets), out, start=files[0], end=files[0]),
        "the end of the curve",
        "export(1)",
    )
    assert not out.exists()


def test_what_is_no_curve_is_refused(ends, tmp_path):
    nets, files = ends(perceptron)
    refused(
        lambda: load_curve(files[0], perceptron),
        "holds no curve",
        "save_curve",
        "make the curve again",
    )
    file = save_curve(Bezier(*nets), tmp_path / "c.safetensors", start=files[0], end=files[1])
    refused(lambda: load_curve(file, lambda: perceptron(5)), "(2, 4) instead of (5, 4)")
    tensors, metadata = read_checkpoint(file)
    save_file(tensors, file, metadata | {"kind": "os.system"})
    refused(
        lambda: load_curve(file, perceptron),
        "unknown kind 'os.system'",
        "Bezier",
        "import the module",
    )
    save_file({"bends.7.weight": torch.ones(1, 2)}, file, metadata)
    refused(
        lambda: load_curve(file, perceptron), "bends do not fit the network (7.weight)", "factory"
    )
    for bends in ("many", "2", "-1"):
        save_file(tensors, file, metadata | {"bends": bends})
        refused(lambda: load_curve(file, perceptron), "holds no curve")
