"""What users met: inputs read wrongly, or refused in words that mislead. Each is a kind."""

import json
import os
import stat
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.refusals import refused

from isthmus import Data, fit, load_checkpoint, repair, save_checkpoint
from isthmus.data import as_data, load_data, save_npz
from isthmus.data.splits import check_classes, classes_without_samples
from isthmus.models import mlp
from isthmus.models.view import copied
from isthmus.runs.files import write_json
from isthmus.runs.notices import Notice, plain_notices

COLOR = (200, 30, 30)


def picture(path, color=COLOR):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), color).save(path)


def parquet(path, labels=(0, 1, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(path.with_suffix(".png"))
    encoded = path.with_suffix(".png").read_bytes()
    path.with_suffix(".png").unlink()
    pq.write_table(pa.table({"image": [encoded] * len(labels), "label": list(labels)}), path)


# ---- images in memory


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "YCbCr", "HSV", "RGB"])
def test_color_images_of_every_mode_are_read_as_rgb(mode):
    image = Image.new("RGB", (4, 4), COLOR)
    options = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
    image = image.convert(mode, **options)
    data = as_data([(image, 0), (image, 1)])
    assert data.x.shape == (2, 3, 4, 4)
    assert torch.allclose(data.x[0, :, 0, 0].float(), torch.tensor(COLOR).float(), atol=4)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_images_of_every_mode_keep_one_channel(mode):
    image = Image.new("L", (4, 4), 255).convert(mode)
    assert torch.equal(as_data([(image, 0)]).x, torch.full((1, 1, 4, 4), 255, dtype=torch.uint8))


@pytest.mark.parametrize("kept", ["in memory", "png", "gif", "bmp"])
def test_a_palette_of_grays_is_gray_as_other_gray_images_are(kept, tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(values[::-1].copy())
    image.putpalette([255 - v for v in range(256) for _ in range(3)])
    assert image.mode == "P"
    if kept == "in memory":
        x = as_data([(image, 0)]).x
    else:
        (tmp_path / "a").mkdir()
        image.save(tmp_path / "a" / f"0.{kept}")
        x = load_data(tmp_path).x
    assert x.shape == (1, 1, 16, 16)
    assert np.array_equal(x[0, 0].numpy(), 255 - values[::-1])


def test_one_color_in_a_palette_is_color():
    image = Image.new("L", (4, 4)).convert("P")
    image.putpalette([0, 0, 0, 9, 9, 8])
    assert as_data([(image, 0)]).x.shape == (1, 3, 4, 4)


@pytest.mark.parametrize("modes", [("L", "RGB", "L"), ("RGB", "L", "RGB"), ("L", "L", "RGB")])
@pytest.mark.parametrize("most", [None, 10])
def test_a_stream_of_gray_and_colored_images_is_in_color_as_a_folder_is(
    modes, most, tmp_path, monkeypatch
):
    """However large it is: beyond `most` bytes the images lie in a file."""
    images = [Image.new("RGB", (4, 4), (40 * i, 90, 10)).convert(m) for i, m in enumerate(modes)]
    for i, image in enumerate(images):
        (tmp_path / "set" / "a").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "set" / "a" / f"{i}.png")
    folder = load_data(tmp_path / "set").x
    if most:
        monkeypatch.setattr("isthmus.data.mapped.IN_MEMORY", most)
    assert torch.equal(as_data((image, 0) for image in images).x, folder)


@pytest.mark.parametrize("most", [None, 10])
def test_the_first_image_of_another_size_or_type_is_named(most, monkeypatch):
    if most:
        monkeypatch.setattr("isthmus.data.mapped.IN_MEMORY", most)
    first = torch.zeros(2, 3, 4, 4)
    for odd, words in (
        (torch.zeros(3, 5, 4), "sample 2 of shape (3, 5, 4) after (3, 4, 4)"),
        (torch.zeros(2, 4, 4), "sample 2 of shape (2, 4, 4) after (3, 4, 4)"),
        (torch.zeros(1, 4, 5), "sample 2 of shape (1, 4, 5) after (3, 4, 4)"),
        (torch.zeros(3, 4, 4).byte(), "sample 2 of type torch.uint8 after floats"),
    ):
        pairs = [(first, torch.zeros(2).long()), (odd, 1)]
        refused(lambda pairs=pairs: as_data(iter(pairs)), words, "one image shape")


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_images_of_more_than_8_bits_are_refused(mode):
    refused(lambda: as_data([(Image.new(mode, (4, 4)), 0)]), f"an image of mode {mode}", "8 bits")


def test_the_same_images_are_the_same_data_in_memory_and_in_a_folder(tmp_path):
    image = Image.new("RGB", (4, 4), COLOR).convert("P", palette=Image.Palette.ADAPTIVE)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png")
    assert torch.equal(load_data(tmp_path).x, as_data([(image, 0)]).x)


# ---- folders


def test_images_below_a_class_belong_to_it(tmp_path):
    for kind in ("cat", "dog"):
        for file in ("0.png", "more/1.png", "more/deep/2.png"):
            picture(tmp_path / kind / file)
        picture(tmp_path / kind / ".hidden" / "3.png")
    data = load_data(tmp_path)
    assert data.y.tolist() == [0, 0, 0, 1, 1, 1] and data.classes == ("cat", "dog")


def test_one_folder_of_images_in_each_class_is_read(tmp_path):
    for kind in ("cat", "dog"):  # as Tiny ImageNet ships
        picture(tmp_path / kind / "images" / "0.png")
        (tmp_path / kind / "boxes.txt").write_text("0.png 0 0 3 3")
    data = load_data(tmp_path)
    assert data.y.tolist() == [0, 1] and data.classes == ("cat", "dog")


@pytest.mark.parametrize("junk", ["__MACOSX", "@eaDir", ".git", "$RECYCLE.BIN"])
def test_what_tools_leave_behind_is_no_class(junk, tmp_path):
    for folder in (tmp_path, tmp_path / "cat"):
        (folder / junk).mkdir(parents=True)
        (folder / junk / "._0.png").write_bytes(b"\0\5\x16\7")
        picture(folder / junk / "thumb.png")
    picture(tmp_path / "cat" / "0.png")
    picture(tmp_path / "dog" / "0.png")
    data = load_data(tmp_path)
    assert data.y.tolist() == [0, 1] and data.classes == ("cat", "dog")


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val"), ("validation",)])
def test_splits_are_not_taken_for_classes(splits, tmp_path):
    for split in splits:
        picture(tmp_path / split / "cat" / "0.png")
        picture(tmp_path / split / "dog" / "0.png")
    words = f"pass {tmp_path / sorted(splits)[0]}"
    refused(lambda: load_data(tmp_path), "splits and not classes", words)
    assert load_data(tmp_path / splits[0]).classes == ("cat", "dog")


def test_classes_below_something_else_are_not_merged(tmp_path):
    for site in ("north", "south"):
        picture(tmp_path / site / "cat" / "0.png")
        picture(tmp_path / site / "dog" / "0.png")
    refused(lambda: load_data(tmp_path), "holds the folders cat, dog", f"pass {tmp_path / 'north'}")


def test_a_clone_of_the_hub_says_where_its_data_lie(tmp_path):
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("a data set as the hub lays it out\n")
    refused(lambda: load_data(tmp_path), f"pass {tmp_path / 'data'}")
    assert len(load_data(tmp_path / "data")) == 3


def test_partitions_by_label_say_what_to_write(tmp_path):
    for i in (0, 1):
        parquet(tmp_path / f"label={i}" / "part-0.parquet")
    refused(
        lambda: load_data(tmp_path), "label=0, label=1", "one Parquet file with image and label"
    )


# ---- shards


def test_missing_shards_are_named(tmp_path):
    for i in (0, 2):
        parquet(tmp_path / f"train-0000{i}-of-00003.parquet")
    words = ["lacks 1 of its parts (train-00001-of-00003.parquet)", "download"]
    refused(lambda: load_data(tmp_path), *words)
    refused(lambda: load_data(f"{tmp_path}/train-*.parquet"), *words)
    assert len(load_data(f"{tmp_path}/train-*2-of-00003.parquet")) == 3  # on purpose
    assert len(load_data(tmp_path / "train-00000-of-00003.parquet")) == 3
    parquet(tmp_path / "train-00001-of-00003.parquet")
    assert len(load_data(tmp_path)) == 9


# ---- npz


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_images_that_can_be_read_both_ways_are_refused_until_the_file_says(tmp_path):
    x, y = np.random.default_rng(0).random((12, 13, 4, 4), np.float32), np.arange(12) % 3
    file = npz(tmp_path / "x.npz", x=x, y=y)
    refused(lambda: load_data(file), "(12, 13, 4, 4)", "layout='nchw' for 13 channels")
    bands = load_data(npz(tmp_path / "x.npz", x=x, y=y, layout="nchw"))
    assert torch.equal(bands.x, torch.from_numpy(x))
    pixels = load_data(npz(tmp_path / "x.npz", x=x, y=y, layout="NHWC"))
    assert torch.equal(pixels.x, torch.from_numpy(x).permute(0, 3, 1, 2))
    refused(lambda: load_data(npz(tmp_path / "x.npz", x=x, y=y, layout="hwc")), "layout hwc")


@pytest.mark.parametrize("classes", ["ten", np.nan, 0, -3, 2.5, np.inf, True, np.zeros((2, 2))])
def test_classes_that_are_no_count_are_refused(classes, tmp_path):
    x, y = np.zeros((2, 1, 4, 4), np.float32), np.array([0, 1])
    file = npz(tmp_path / "x.npz", x=x, y=y, classes=np.array(classes))
    refused(lambda: load_data(file), "x.npz with classes", "write classes=10")


# ---- classes without samples


def of_labels(labels, classes):
    return Data(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), classes)


def test_classes_without_samples_are_named():
    assert classes_without_samples(of_labels([0, 1, 1], ["a", "b"])) == ()
    with pytest.warns(Notice, match=r"no bonafide sample of 1 of 3 classes \(c\)"):
        assert check_classes(of_labels([0, 1, 1], ["a", "b", "c"])) == ("c",)
    refused(lambda: check_classes(of_labels([3] * 9, 10)), "samples of one class only (3)")
    words = ["bonafide samples of 2 classes only (0, 1)", "all 10 classes", "2, 3, 4 and 5 more"]
    refused(lambda: check_classes(of_labels([0, 1] * 9, 10)), *words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_classes(of_labels([0, 1, 2], 3)) == ()


def test_notices_are_lines_on_the_command_line(capsys):
    with plain_notices():
        warnings.simplefilter("always")
        check_classes(of_labels([0, 1, 1], ["a", "b", "c"]))
    assert capsys.readouterr().err.startswith("isthmus: no bonafide sample of 1 of 3 classes (c)")


@pytest.mark.parametrize(("options", "told"), [([], 1), (["default"], 2)])
def test_what_libraries_tell_programmers_is_not_on_the_command_line(options, told, monkeypatch):
    monkeypatch.setattr("sys.warnoptions", options)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with plain_notices():
            warnings.warn("overflow", RuntimeWarning, stacklevel=1)
            warnings.warn("is deprecated", FutureWarning, stacklevel=1)
    assert [warning.category for warning in seen] == [RuntimeWarning, FutureWarning][:told]


# ---- files


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_every_file_is_written_with_the_users_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        files = [
            save_checkpoint({"w": torch.ones(2)}, tmp_path / "x.safetensors"),
            save_npz(of_labels([0, 1], 2), tmp_path / "x.npz"),
            write_json(tmp_path / "x.json", {}),
        ]
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}
    assert list(load_checkpoint(files[0])) == ["w"] and json.loads(files[2].read_text()) == {}
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(f.name for f in files)


def test_a_repair_without_samples_of_some_classes_names_them_and_claims_nothing():
    digits = load_data("digits")
    net = mlp(channels=1, size=8)
    fit(net, digits, steps=150, lr=0.1, device="cpu")
    samples = digits[(digits.y > 0).nonzero()[:400, 0]]
    with pytest.warns(Notice, match=r"no bonafide sample of 1 of 10 classes \(0\)"):
        repaired = repair(net, samples, copied(net), points=3, steps=2, bends=0)
    assert not repaired.t.confident and "no bonafide sample of 0" in repaired.t.reason
    few = digits[(digits.y < 2).nonzero()[:, 0]]
    refused(lambda: repair(net, few, steps=2), "bonafide samples of 2 classes only (0, 1)")
