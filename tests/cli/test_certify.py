"""`isthmus certify`: its figures, its files, and what it refuses."""

import json

import pytest
from support.command_line import MODEL, isthmus

from isthmus.data import load_data
from isthmus.evidence import read_written
from isthmus.runs import file_sha256

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
    certified_shares = [row["certified"]["value"] for row in record["rows"]]
    attacked = [row["attacked"]["value"] for row in record["rows"]]
    assert certified_shares == sorted(certified_shares, reverse=True)
    for low, high in zip(certified_shares, attacked, strict=True):
        assert low <= high <= record["accuracy"]["value"]
    assert certified_shares[0] > 0.8 and record["certifier"].startswith("MixedMonotone")
    assert record["equilibrium_layers"]["equilibrium"]["converged"]
    page = (implicit / "proofs/report.html").read_text()
    assert "<svg" in page and "http" not in page.replace("http-equiv", "") and "MixedM" in page


def test_the_record_names_its_kind_the_weights_and_the_samples(implicit):
    options = ("--eps", "0.01", "--attack-steps", 0, "--out", "named")
    assert certified(implicit, *options).returncode == 0
    record = json.loads((implicit / "named/report.json").read_text())
    assert record["schema"] == "isthmus-certificate/1"
    weights = record["provenance"]["checkpoint"]["sha256"]
    assert weights == file_sha256(implicit / "net.safetensors")
    assert record["provenance"]["data"]["data"]["sha256"] == load_data("digits:test#n=100").sha256
    assert read_written(record).record() == record
    page = (implicit / "named/report.html").read_text()
    assert weights in page and all(limit in page for limit in record["limits"])


def test_the_page_is_made_again_from_the_record(implicit):
    options = ("--eps", "0.01,0.05", "--attack-steps", 2, "--out", "first")
    assert certified(implicit, *options).returncode == 0
    done = isthmus("report", "first/report.json", "--out", "again", folder=implicit)
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "report.json"):
        assert (implicit / "again" / name).read_text() == (implicit / "first" / name).read_text()


def test_out_is_a_folder_of_one_run(implicit):
    options = ("--eps", "0.01", "--attack-steps", 0, "--out", "taken")
    (implicit / "taken").mkdir()
    assert certified(implicit, *options).returncode == 0
    before = (implicit / "taken/report.json").read_bytes()
    for other in (options, ("--eps", "0.02", *options[2:])):
        done = certified(implicit, *other)
        assert done.returncode == 2 and "holds a run already" in done.stderr
        assert "--resume" not in done.stderr
    assert (implicit / "taken/report.json").read_bytes() == before
    (implicit / "papers").mkdir()
    (implicit / "papers/letter.txt").write_text("mine")
    done = certified(implicit, *options[:-1], "papers")
    assert done.returncode == 2 and "not an empty folder" in done.stderr


def test_a_run_that_is_refused_leaves_an_empty_folder_empty(implicit):
    (implicit / "empty").mkdir()
    done = certified(implicit, "--certifier", "lipschitz", "--eps", "-1", "--out", "empty")
    assert done.returncode == 2 and list((implicit / "empty").iterdir()) == []


def test_every_certifier_has_a_name(implicit):
    for name in ("mixed-monotone", "interval", "lipschitz", "smoothing"):
        options = ("--certifier", name, "--eps", "0.01", "--attack-steps", 0)
        done = certified(implicit, *options, "--out", name)
        assert done.returncode == 0, done.stderr
        record = json.loads((implicit / name / "report.json").read_text())
        assert record["rows"][0]["attacked"] is None and record["attack"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--eps", "-0.1"), "eps = -0.1"),
        (("--eps", "much"), "eps 'much'"),
        (("--certifier", "smoothing", "--sigma", 0), "sigma"),
        (("--sigma", 0.1), "--sigma"),
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
