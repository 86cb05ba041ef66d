"""`isthmus detect`: what it writes, its lines and exit status, and what it refuses."""

import io
import json
import os
import warnings

import numpy as np
import pytest
import torch
from support.command_line import MODEL, isthmus

from isthmus import Data, load_data
from isthmus.cli.inputs import warn_of_foreign
from isthmus.detection import ManifoldDetector
from isthmus.evidence import read_written
from isthmus.runs import file_sha256
from isthmus.runs.notices import Notice

CLEAN = "digits:train#n=600"
NETWORK = ("a.safetensors", "--model", MODEL)


@pytest.fixture(scope="module")
def screened(home):
    for name, options in (("pixels", ()), ("layer", ("--layer", "features"))):
        checkpoint = NETWORK if options else ()
        done = isthmus(
            *("detect", "fit", *checkpoint, "--clean", CLEAN, "--neighbors", 10, *options),
            *("--out", name),
            folder=home,
        )
        assert done.returncode == 0, done.stderr
    noise = np.random.default_rng(0).random((5, 1, 8, 8)).astype(np.float32)
    np.savez(home / "noise.npz", x=noise)
    return home


def scored(folder, *options):
    detector = ("--detector", "pixels/detector.safetensors")
    return isthmus("detect", "score", *detector, *options, folder=folder)


def test_fit_says_what_the_threshold_promises(screened):
    record = json.loads((screened / "pixels/report.json").read_text())
    threshold = record["detector"]["threshold"]
    assert threshold["low"] < 0.05 < threshold["high"] and threshold["samples"] == 150
    assert record["detector"]["reference_samples"] == 450 and record["evaluations"] == []
    assert "not known yet" in (screened / "pixels/report.html").read_text()


def test_score_answers_with_lines_and_exit_status(screened):
    done = scored(screened, "--data", "noise.npz")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and [line["index"] for line in lines] == list(range(5))
    assert all(line["flagged"] and line["answer"] is None for line in lines)
    clean = scored(screened, "--data", "digits:train#n=3")  # the reference itself
    assert clean.returncode == 0, clean.stdout + clean.stderr


def test_a_stream_is_read_file_by_file(screened, monkeypatch):
    folder = screened / "stream/deeper"
    folder.mkdir(parents=True)
    for i in range(3):
        np.savez(folder / f"{i}.npz", x=np.zeros((2, 1, 8, 8), np.uint8))
    whole = scored(screened, "--data", "stream", "noise.npz").stdout.splitlines()
    assert len(whole) == 11 and json.loads(whole[0])["file"].endswith("0.npz")
    names = "\n".join(f"stream/deeper/{i}.npz" for i in range(3)) + "\nnoise.npz\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(names))
    assert scored(screened, "--data", "stdin").stdout.splitlines() == whole


def test_a_detector_of_features_answers_for_its_own_network_alone(screened):
    options = ("--detector", "layer/detector.safetensors", "--data", "digits:test#n=40")
    done = isthmus("detect", "score", *NETWORK, *options, folder=screened)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode in (0, 1) and len(lines) == 40
    assert all((line["answer"] is None) == line["flagged"] for line in lines)
    other = isthmus("detect", "score", "b.safetensors", *NETWORK[1:], *options, folder=screened)
    assert other.returncode == 2 and "the one that the detector" in other.stderr


def test_evaluate_shows_three_rows_at_every_eps(screened):
    options = ("--data", "digits:test#n=60", "--eps", "0.05,0.3", "--attack-steps", 4)
    done = isthmus(
        *("detect", "evaluate", *NETWORK, "--detector", "layer/detector.safetensors"),
        *(*options, "--weights", "1,10", "--out", "judged"),
        folder=screened,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((screened / "judged/report.json").read_text())
    assert [part["eps"] for part in record["evaluations"]] == [0.05, 0.3]
    for part in record["evaluations"]:
        kinds = [(row["inputs"], row["weight"]) for row in part["rows"]]
        assert kinds[:2] == [("attack", None), ("noise", None)] and len(kinds) == 4
        assert all(row["auroc"]["low"] <= row["auroc"]["value"] for row in part["rows"])
    page = (screened / "judged/report.html").read_text()
    assert "<svg" in page and "http" not in page.replace("http-equiv", "")
    weights = file_sha256(screened / "a.safetensors")
    assert record["provenance"]["checkpoint"]["sha256"] == weights and weights in page
    done = isthmus("report", "judged/report.json", "--out", "judged-again", folder=screened)
    assert done.returncode == 0 and (screened / "judged-again/report.html").read_text() == page


def test_the_record_names_its_kind_and_what_it_was_made_from(screened):
    samples = load_data(CLEAN)
    for name in ("pixels", "layer"):
        record = json.loads((screened / name / "report.json").read_text())
        assert record["schema"] == "isthmus-detection/1"
        assert record["provenance"]["data"]["clean"]["sha256"] == samples.sha256
        assert read_written(record).record() == record
        bound = record["detector"]["network"] is not None
        assert bound == ("checkpoint" in record["provenance"]) == (name == "layer")


def test_out_is_a_folder_of_one_run(screened):
    (screened / "taken").mkdir()
    common = ("detect", "fit", "--clean", CLEAN, "--out", "taken")
    done = isthmus(*common, "--neighbors", 451, folder=screened)
    assert done.returncode == 2 and list((screened / "taken").iterdir()) == []
    assert isthmus(*common, folder=screened).returncode == 0
    before = (screened / "taken/detector.safetensors").read_bytes()
    for options in ((), ("--neighbors", 5)):
        done = isthmus(*common, *options, folder=screened)
        assert done.returncode == 2 and "holds a run already" in done.stderr
        assert "--resume" not in done.stderr
    assert (screened / "taken/detector.safetensors").read_bytes() == before


PIXELS = ("--detector", "pixels/detector.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "--out", "bad"), "no --clean"),
        (("fit", "--clean", CLEAN), "no --out"),
        (("fit", "--clean", CLEAN, "--eps", 0.1, "--out", "bad"), "--eps"),
        (("fit", "--clean", CLEAN, "--data", CLEAN, "--out", "bad"), "--data"),
        (("score", *PIXELS, "--data", CLEAN, "--score", "knn", "--out", "bad"), "--out, --score"),
        (("evaluate", *PIXELS, "--data", CLEAN, "--false-positive-rate", 0.1), "--false-positive"),
        (("fit", "--clean", "digits:train#n=60", "--out", "bad"), "from 15 samples"),
        (("fit", "--clean", CLEAN, "--neighbors", 451, "--out", "bad"), "neighbors = 451"),
        (("fit", *NETWORK, "--clean", CLEAN, "--layer", "conv", "--out", "bad"), "layer 'conv'"),
        (("fit", "--clean", CLEAN, "--layer", "features", "--out", "bad"), "no network"),
        (("fit", "a.safetensors", "--clean", CLEAN, "--out", "bad"), "both or none"),
        (("score", "--data", "noise.npz"), "no --detector"),
        (("score", *PIXELS), "no --data"),
        (("score", *PIXELS, "--data", "nowhere.npz"), "does not exist"),
        (("score", "--detector", "a.safetensors", "--data", "noise.npz"), "no detector"),
        (("evaluate", *PIXELS, "--data", "digits:test", "--out", "bad"), "no checkpoint"),
    ],
)
def test_bad_options_are_refused_in_one_line(screened, arguments, words):
    done = isthmus("detect", *arguments, folder=screened)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr and not (screened / "bad").exists()


def test_evaluation_samples_of_the_reference_and_a_negative_eps_are_refused(screened):
    common = ("evaluate", *NETWORK, "--detector", "layer/detector.safetensors", "--out", "bad")
    for options, words in (
        (("--data", "digits:train#n=50"), "among the reference"),
        (("--data", "digits:test#n=50", "--eps", "-0.1"), "eps = -0.1"),
        (("--data", "digits:test#n=50", "--eps", "0.1,5"), "eps = 5"),
        (("--data", "digits:test#n=50", "--eps", "0.1,nan"), "eps 'nan'"),
        (("--data", "digits:test#n=50", "--weights", "much"), "weights 'much'"),
    ):
        done = isthmus("detect", *common, *options, folder=screened)
        assert done.returncode == 2 and words in done.stderr, done.stderr


@pytest.fixture(scope="module")
def odd(screened):
    """Sources of nothing, and of what cannot be scored."""
    (screened / "empty").mkdir()
    (screened / "texts").mkdir()
    (screened / "texts/a.txt").write_text("text")
    np.savez(screened / "none.npz", x=np.zeros((0, 1, 8, 8), np.uint8))
    (screened / "mixed").mkdir()
    np.savez(screened / "mixed/a.npz", x=np.zeros((2, 1, 8, 8), np.uint8))
    np.savez(screened / "mixed/b.npz", x=np.zeros((2, 1, 9, 9), np.uint8))
    np.savez(screened / "large.npz", x=np.full((2, 1, 8, 8), 7.0, np.float32))
    np.savez(screened / "names.npz", z=np.zeros(3))
    return screened


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("empty", "empty, a folder without images"),
        ("texts", "texts, a folder without images"),
        ("none.npz", "none.npz, which holds no images"),
        ("mixed", "b.npz: images of shape (2, 1, 9, 9)"),
        ("large.npz", "large.npz: inputs from 7 to 7"),
        ("names.npz", "names.npz with the arrays z"),
        ("stdin", "standard input without a line"),
        (f"{'x' * 300}.npz", "a name of 304 characters"),
        (f"{'x' * 300}", "a name of 300 characters"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_named(odd, source, words, monkeypatch):
    """Nothing that was scored is nothing clean: the status is neither 0 nor that of a flag."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    done = scored(odd, "--data", source)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def test_a_suffix_may_be_in_capitals(screened):
    (screened / "noise.npz").rename(screened / "NOISE.NPZ")
    done = scored(screened, "--data", "NOISE.NPZ")
    (screened / "NOISE.NPZ").rename(screened / "noise.npz")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 5, done.stderr


def test_standard_input_may_be_closed_and_names_may_hold_any_bytes(odd, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert "closed" in scored(odd, "--data", "stdin").stderr
    name = b"\xff\xfe.npz"
    np.savez(odd / "plain.npz", x=np.zeros((1, 1, 8, 8), np.uint8))
    (odd / "plain.npz").rename(odd / os.fsdecode(name))
    given = io.TextIOWrapper(io.BytesIO(name + b"\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", given)
    done = scored(odd, "--data", "stdin")
    assert json.loads(done.stdout)["file"] == os.fsdecode(name), done.stderr


def test_fit_keeps_equal_images_on_one_side(screened):
    samples = load_data(CLEAN)
    x = samples.x[torch.tensor([*range(200), *range(50)])].numpy()
    np.savez(screened / "twice.npz", x=x, y=np.tile(samples.y[:250].numpy(), 1)[: len(x)])
    options = ("--clean", "twice.npz", "--neighbors", 5, "--out", "twice")
    done = isthmus("detect", "fit", *options, folder=screened)
    assert done.returncode == 0, done.stderr
    assert "50 of 250 clean samples repeat others" in done.stderr
    record = json.loads((screened / "twice/report.json").read_text())["detector"]
    assert record["reference_samples"] == 150 and record["threshold"]["samples"] == 50


def test_a_detector_of_another_preparation_is_refused(screened):
    data = ("--detector", "layer/detector.safetensors", "--data", "digits:test#n=5")
    for odd in (("--normalize", "0.5,0.25"), ("--resize", 16)):
        done = isthmus("detect", "score", *NETWORK, *odd, *data, folder=screened)
        assert done.returncode == 2 and "its --resize and --normalize" in done.stderr


def test_an_interrupted_fit_gives_its_folder_back(screened, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("isthmus.evidence.write_report", interrupt)
    options = ("--clean", CLEAN, "--neighbors", 5, "--out", "interrupted")
    done = isthmus("detect", "fit", *options, folder=screened)
    assert done.returncode == 130 and "starts over" in done.stderr
    assert not (screened / "interrupted").exists()


def test_images_are_scored_as_files(screened):
    image = pytest.importorskip("PIL.Image")
    (screened / "pictures").mkdir()
    image.fromarray(np.zeros((8, 8), np.uint8)).save(screened / "pictures/black.png")
    done = scored(screened, "--data", "pictures")
    line = json.loads(done.stdout)
    assert line["file"].endswith("black.png") and torch.isfinite(torch.tensor(line["score"]))


def test_gray_images_are_scored_by_a_detector_of_colored_ones(tmp_path):
    """As they were read where it was fitted: in a folder with images in color."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    gray = image.fromarray(pixels[0]).convert("L")
    x = torch.from_numpy(np.stack([gray] * 3)[None])
    x = torch.cat([x, torch.from_numpy(pixels).permute(0, 3, 1, 2)])
    detector = ManifoldDetector("knn", 5).fit((x, torch.zeros(61).long()))
    detector.calibrate((1 - x / 255, torch.zeros(61).long())).save(tmp_path / "d.safetensors")
    gray.save(tmp_path / "gray.png")
    done = isthmus(
        "detect", "score", "--detector", "d.safetensors", "--data", "gray.png", folder=tmp_path
    )
    assert json.loads(done.stdout)["score"] == pytest.approx(float(detector.score(x[:1])))


def test_repair_warns_of_trusted_samples_that_do_not_belong():
    with pytest.warns(Notice, match=r"15 of 200 clean samples .*numbers 0, 1, 2, 3, 4, \.\.\."):
        warn_of_foreign(with_noise(15))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_foreign(with_noise(0))
        warn_of_foreign(with_noise(15)[:50])


def with_noise(count):
    samples = load_data("digits:test#n=200")
    x = samples.floats()
    x[:count] = torch.rand(x[:count].shape, generator=torch.Generator().manual_seed(0))
    return Data(x, samples.y, samples.classes)
