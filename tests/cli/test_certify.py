"""`isthmus certify`: its figures, its files, and what it refuses."""

import json

import pytest
from support.command_line import MODEL, isthmus

IMPLICIT = "isthmus.models:implicit_mlp,inputs=64,hidden=16"


@pytest.fixture(scope="module")
def implicit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("implicit")
    options = ("--steps", 120, "--lr", 0.1, "--out", "net.safetensors")
    trained = isthmus(
        "train", "--model", IMPLICIT, "--data", "digits:train", *options, folder=folder
    )
    assert trained.returncode == 0, trained.stderr
    return folder


def certified(folder, *options):
    return isthmus(
        *("certify", "net.safetensors", "--model", IMPLICIT, "--data", "digits:test#n=100"),
        *options,
        folder=folder,
    )


def test_certified_attacked_and_clean_accuracy_are_in_order(implicit):
    done = certified(implicit, "--eps", "0,1/255,0.05", "--attack-steps", 5, "--out", "proofs")
    assert done.returncode == 0, done.stderr
    record = json.loads((implicit / "proofs/report.json").read_text())
    assert [row["eps"] for row in record["rows"]] == [0, 1 / 255, 0.05]
    certified_shares = [row["certified accuracy"]["value"] for row in record["rows"]]
    attacked = [row["attacked accuracy"]["value"] for row in record["rows"]]
    assert certified_shares == sorted(certified_shares, reverse=True)
    for low, high in zip(certified_shares, attacked, strict=True):
        assert low <= high <= record["accuracy"]["value"]
    assert certified_shares[0] > 0.8 and record["certifier"].startswith("MixedMonotone")
    assert record["equilibrium layers"]["equilibrium"]["converged"]
    page = (implicit / "proofs/report.html").read_text()
    assert "<svg" in page and "http" not in page.replace("http-equiv", "") and "MixedM" in page
    assert certified(implicit, "--out", "proofs").returncode == 2  # nothing is overwritten


def test_every_certifier_has_a_name(implicit):
    for name in ("mixed-monotone", "interval", "lipschitz", "smoothing"):
        options = ("--certifier", name, "--eps", "0.01", "--attack-steps", 0)
        done = certified(implicit, *options, "--out", name)
        assert done.returncode == 0, done.stderr
        record = json.loads((implicit / name / "report.json").read_text())
        assert record["rows"][0]["attacked accuracy"] is None and record["attack"] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--eps", "-0.1"), "eps = -0.1"),
        (("--eps", "much"), "eps 'much'"),
        (("--certifier", "smoothing", "--sigma", 0), "sigma"),
        (("--attack-steps", 5, "--restarts", 0), "restarts = 0"),
    ],
)
def test_bad_options_are_refused_in_one_line(implicit, options, words):
    done = certified(implicit, *options, "--out", "bad")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr and not (implicit / "bad").exists()


def test_a_network_without_equilibrium_layers_is_refused_by_mixed_monotone(home):
    done = isthmus(
        *("certify", "a.safetensors", "--model", MODEL, "--data", "digits:test#n=50"),
        *("--certifier", "mixed-monotone", "--out", "bad"),
        folder=home,
    )
    assert done.returncode == 2 and "equilibrium layers" in done.stderr
