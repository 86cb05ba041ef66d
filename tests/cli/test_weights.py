"""`isthmus inject`, `flip` and `align`: changed weights, and who asks about them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.command_line import FAST, MODEL, isthmus, refused

INJECT = ("inject", "a.safetensors", "--model", MODEL, "--errors", 20, "--kept", 100)


@pytest.fixture(scope="module")
def injected(home):
    """The folder, with errors injected into one of its networks and kept in a file."""
    found = isthmus(
        *INJECT,
        "--data",
        "digits:test#n=250",
        "--layer",
        "features",
        "--layer",
        "head",
        "--lr",
        0.03,
        "--errors-out",
        "errors.npz",
        "--out",
        "injected.safetensors",
        folder=home,
    )
    assert found.returncode == 0 and "20 of 20 errors" in found.stdout.replace("\n", " "), (
        found.stderr + found.stdout
    )
    return home


def test_injected_errors_are_asked_about_wherever_a_network_is_judged(injected):
    asked = ("--data", "digits:train#n=300", "--errors", "errors.npz", "--model", MODEL)
    found = isthmus(
        "evaluate", "injected.safetensors", *asked, "--out", "injected.json", folder=injected
    )
    assert found.returncode == 0, found.stderr
    assert json.loads((injected / "injected.json").read_text())["injection success"]["hits"] == 20
    found = isthmus(
        "repair",
        "injected.safetensors",
        *asked,
        "--clean",
        "digits:test#skip=250",
        *FAST,
        "--points",
        3,
        "--tolerance",
        0.5,
        "--out",
        "mended",
        folder=injected,
    )
    assert found.returncode == 0, found.stderr
    record = json.loads((injected / "mended/report.json").read_text())
    assert record["errors"]["n"] == 20 and record["before"]["injection success"]["value"] == 1
    assert (
        "injection success" in record["path"]["values"] and "injection success" in record["verdict"]
    )
    assert record["provenance"]["data"].keys() == {"clean", "evaluation", "errors"}
    page = (injected / "mended/report.html").read_text()
    assert "20 images with injected errors" in page and "No trigger was given, so" not in page


def test_errors_among_the_clean_or_the_evaluation_samples_are_refused(injected):
    clean, own = ("--clean", "digits:test#n=250"), ("--errors", "errors.npz", "--model", MODEL)
    repair = ("repair", "injected.safetensors", *own, "--out", "refused")
    assert "among the bonafide" in refused(injected, *repair, *clean)
    found = isthmus(
        "connect",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        *clean,
        "--steps",
        1,
        "--out",
        "short.safetensors",
        folder=injected,
    )
    assert found.returncode == 0, found.stderr
    path = ("path", "short.safetensors", *own, *clean, "--points", 3, "--out", "p.json")
    assert "among the bonafide" in refused(injected, *path)
    evaluate = ("evaluate", "injected.safetensors", *own, "--data", "digits:test")
    assert "evaluation samples that are among the errors" in refused(injected, *evaluate)
    assert not (injected / "refused").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--errors", 300), "300 and 100"),
        (("--layer", "haed"), "head"),
        (("--errors-out", "errors.csv"), ".npz"),
        (("--errors", 0), "parts of"),
        (("--how", "reference", "--lr", 0.0), "steps of 0"),
        (("--lr", 1e-9), "injection that gives 0 of 20"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_an_impossible_injection_is_refused_in_one_line(arguments, says, home):
    data = () if "--data" in arguments else ("--data", "digits:test#n=250")
    given = INJECT[:4] if "--errors" in arguments else INJECT
    assert says in refused(
        home,
        *given,
        *data,
        *arguments,
        *(("--kept", 100) if given is not INJECT else ()),
        "--out",
        "none.safetensors",
    )
    assert not (home / "none.safetensors").exists()


def test_bits_flip_and_the_network_is_still_one(home):
    flip = ("flip", "a.safetensors", "--model", MODEL, "--out", "flipped.safetensors")
    found = isthmus(*flip, "--flips", 40, "--dtype", "int8", folder=home)
    assert found.returncode == 0 and "40 of" in found.stdout, found.stderr
    was, now = (load_file(home / name) for name in ("a.safetensors", "flipped.safetensors"))
    assert was.keys() == now.keys() and not torch.equal(was["head.weight"], now["head.weight"])
    evaluated = isthmus(
        "evaluate", "flipped.safetensors", "--model", MODEL, "--data", "digits:test", folder=home
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "which exists" in refused(home, *flip, "--rate", 0.5)
    again = (*flip[:-1], "again.safetensors")
    assert "one of them" in refused(home, *again)
    assert "one of them" in refused(home, *again, "--flips", 1, "--rate", 0.1)
    assert (
        "NaN or infinite" in refused(home, *again, "--rate", 0.5)
        and not (home / again[-1]).exists()
    )
    assert isthmus(*again, "--rate", 0.5, "--clamp", folder=home).returncode == 0


def test_an_aligned_network_is_closer_and_computes_the_same(home):
    found = isthmus(
        "align",
        "a.safetensors",
        "b.safetensors",
        "--model",
        MODEL,
        "--clean",
        "digits:test#n=200",
        "--by",
        "weights",
        "--out",
        "aligned.safetensors",
        folder=home,
    )
    assert found.returncode == 0 and "loss barrier" in found.stdout, found.stderr
    first, second, aligned = (
        load_file(home / f"{name}.safetensors") for name in ("a", "b", "aligned")
    )
    away = [
        sum(float((each[k].float() - first[k].float()).square().sum()) for k in first)
        for each in (second, aligned)
    ]
    assert away[1] < away[0]
    for name in ("b", "aligned"):
        isthmus(
            "evaluate",
            f"{name}.safetensors",
            "--model",
            MODEL,
            "--data",
            "digits:test",
            "--out",
            f"{name}.json",
            folder=home,
        )
    one, two = (json.loads((home / f"{name}.json").read_text()) for name in ("b", "aligned"))
    assert one["accuracy"] == two["accuracy"]
