"""`isthmus sweep`: from a file to results, a table and a plot."""

import json

import pytest
from support.command_line import MODEL, isthmus, refused

GRID = f"""
[[grid]]
network = "{MODEL}"
attack = ["patch", "none"]
defense = ["none", "CLP"]
seed = 0

[settings]
train = "digits:train"
clean = "digits:test#n=100"
test = "digits:test#skip=100"

[settings.training]
steps = 40
lr = 0.2
pad = 1

[settings.attacks.patch]
trigger = "Patch(size=2)"
target = 1
rate = 0.2

[table]
rows = ["attack", "defense"]
columns = {{ accuracy = "accuracy", before = "as received/accuracy" }}

[plot]
x = "defense"
y = "accuracy"
lines = "attack"
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the sweep was run in two shards."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "grid.toml").write_text(GRID)
    for shard in ("1/2", "2/2"):
        ended = isthmus("sweep", "grid.toml", "--shard", shard, folder=folder)
        assert ended.returncode == 0, ended.stderr
    return folder, ended


def test_every_combination_has_a_result_a_row_and_a_point(done):
    folder, ended = done
    names = {"patch-none", "patch-clp", "none-none", "none-clp"}
    results = folder / "results/grid"
    assert {file.stem for file in results.glob("*.json")} == names
    table = (results / "table.md").read_text()
    assert table.splitlines()[0] == "| attack | defense | jobs | accuracy | before |"
    assert len(table.splitlines()) == 2 + 4 and table in ended.stdout
    assert (results / "plot.svg").read_text().startswith("<svg")
    record = json.loads((results / "patch-none.json").read_text())
    assert record["accuracy"] == record["as received"]["accuracy"]
    assert record["sweep"]["axes"]["attack"] == "patch"


def test_defenses_of_one_attack_get_the_same_network(done):
    folder, _ = done
    results = folder / "results/grid"
    pair = [json.loads((results / f"patch-{name}.json").read_text()) for name in ("none", "clp")]
    assert pair[0]["as received"] == pair[1]["as received"]
    assert len(list((results / ".work/networks").glob("*.safetensors"))) == 2


def test_nothing_is_done_twice(done):
    folder, _ = done
    again = isthmus("sweep", "grid.toml", folder=folder)
    assert "0 finished, 4 there before" in again.stdout
    other = isthmus("sweep", "grid.toml", "--set", "training.steps=7", folder=folder)
    assert "other settings (training: " in other.stdout


OWN = """
job = "own_job:job"
page = "own_job:page"
[[grid]]
i = [1, 2]
"""
CODE = """
def job(i):
    return {"square": 1 // (i - 1)}

def page(records):
    return f"{len(records)} squares"
"""


def test_functions_beside_the_file_do_the_jobs_and_a_failure_is_status_1(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/own.toml").write_text(OWN)
    (tmp_path / "sub/own_job.py").write_text(CODE)
    ended = isthmus("sweep", "sub/own.toml", "--out", "r", folder=tmp_path)
    assert ended.returncode == 1
    assert "i1 failed: integer division" in ended.stdout and "1 squares" in ended.stdout
    assert "ZeroDivisionError" in (tmp_path / "r/.work/i1.error.txt").read_text()
    assert isthmus("sweep", "sub/own.toml", "--only", "i=2", "--out", "r", folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard", "3/2"), "shard 3/2"),
        (("--shard", "half"), "shard 'half'"),
        (("--shard", "9" * 5000 + "/2"), "shard '9999"),
        (("--only", "attack"), "NAME=VALUE"),
        (("--only", "attack=Patch"), "did you mean patch?"),
        (("--set", "tests=digits:test"), "unexpected keyword argument 'tests'"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, words, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    assert words in refused(tmp_path, "sweep", "grid.toml", *options)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"CLP"', '"CPL"'), "did you mean CLP"),
        (('attack = ["patch"', 'attack = ["path"'), "did you mean patch"),
    ],
)
def test_unknown_words_of_a_job_are_its_failure(change, words, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID.replace(*change).replace("steps = 40", "steps = 1"))
    ended = isthmus(
        "sweep", "grid.toml", "--shard", "2/2" if "CPL" in change[1] else "1/2", folder=tmp_path
    )
    assert ended.returncode == 1 and words in ended.stdout


def test_an_array_needs_a_cluster_that_is_there(tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "own.toml").write_text(OWN + '[slurm]\ncluster = "nowhere"\n')
    assert "nowhere" in refused(tmp_path, "sweep", "own.toml", "--slurm", 2, "--out", "r")
