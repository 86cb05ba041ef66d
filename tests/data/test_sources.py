"""load_data: every source a user has, what is refused and in which words, the cache, and a download
over HTTP.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.refusals import refused

from isthmus.data import Data, load_data, save_npz
from isthmus.data.sources.named import NAMED
from isthmus.runs.notices import Notice

GENERATOR = np.random.default_rng(0)
COLOR = GENERATOR.integers(
    0, 256, (9, 5, 4, 3), dtype=np.uint8
)  # (n, h, w, c), as image libraries have it
GRAY = COLOR[..., 0]
LABELS = [2, 0, 1] * 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ISTHMUS_CACHE", str(folder))
    return folder


def png(array, mode=None):
    buffer = BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(
    path,
    images=COLOR,
    labels=LABELS,
    *,
    names=("a", "b", "c"),
    column="img",
    label="label",
    cells=None,
):
    """Write a file in the hub's layout: a struct of bytes and path, a label, the classes in the
    schema's metadata.
    """
    cells = (
        [{"bytes": png(each), "path": f"{i}.png"} for i, each in enumerate(images)]
        if cells is None
        else cells
    )
    table = pa.table(
        {column: cells, label: pa.array(labels) if isinstance(labels, list) else labels}
    )
    features = {column: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    if names:
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def write_folder(folder, images=COLOR, labels=LABELS, suffix=".png"):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / "abc"[label]).mkdir(parents=True, exist_ok=True)
        (folder / "abc"[label] / f"{i}{suffix}").write_bytes(png(image))
    return folder


def is_color(data, images=COLOR, labels=LABELS):
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return (
        data.x.dtype == torch.uint8 and torch.equal(data.x, x) and data.y.tolist() == list(labels)
    )


# ---- named sets


def test_digits_come_in_fixed_disjoint_shuffled_parts():
    whole, train, test = (load_data(spec) for spec in ("digits", "digits:train", "digits:test"))
    assert (len(whole), len(train), len(test)) == (1797, 1297, 500) and whole.x.shape[1:] == (
        1,
        8,
        8,
    )
    images = [
        set(map(bytes, (part.x * 16).byte().flatten(1).numpy())) for part in (whole, train, test)
    ]
    assert (
        images[1] | images[2] == images[0] and len(images[1]) + len(images[2]) == 1797
    )  # no two digits are equal
    assert train.y.bincount().min() > 100 and test.y.bincount().min() > 30
    # The split is part of every result that names it.
    assert test.y[:8].tolist() == load_data("digits:test").y[:8].tolist()
    assert hashlib.sha256(bytes(test.y.tolist())).hexdigest()[:8] == "59af2e7e"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cifar", ["unknown data 'cifar'", "a named set or a path", "did you mean cifar10"]),
        ("cifar10", ["unknown data 'cifar10'", "cifar10:train"]),
        ("cifar10:valid", ["unknown data 'cifar10:valid'", "did you mean cifar10:"]),
        ("digits:val", ["unknown data 'digits:val'", "digits:"]),
        ("fashion-mnist:test", ["unknown data", "fashion_mnist:test"]),
        ("zzz", ["unknown data 'zzz'", "choose one of cifar100:test"]),
        ("", ["unknown data ''", "choose one of"]),
    ],
)
def test_unknown_sets_are_refused_with_what_is_near(spec, words):
    refused(lambda: load_data(spec), *words)


class Hub(ThreadingHTTPServer):
    """Stands in for the hub on this machine: the files it has, what was fetched, and whether it is
    down.
    """

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), HubAnswer)
        self.files, self.fetched, self.down = files, [], False


class HubAnswer(BaseHTTPRequestHandler):
    """Answers as the hub does, HEAD with the file's hash, commit and size, then GET; is down after
    a set it misses.
    """

    def do_HEAD(self):
        content = self.server.files.get(self.path, b"")
        self.send_response(503 if self.server.down else 200 if content else 404)
        if not content:
            self.send_header("X-Error-Code", "EntryNotFound")
            self.server.down = "/datasets/" in self.path
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def do_GET(self):
        self.wfile.write(self.do_HEAD())
        self.server.fetched.append(self.path)

    def log_message(self, *arguments):
        pass


SCRIPT = """
import json, sys
from isthmus.data.sources.spec import load_data
from isthmus.types import BadInput
for spec in sys.argv[1:]:
    try:
        data = load_data(spec)
        print(json.dumps([data.sha256, list(data.classes)]))
    except BadInput as error:
        print(json.dumps(str(error)))
"""


def elsewhere(*specs, **settings):
    """Load data in a process of its own, since the hub's package reads its settings once; return
    what it printed.
    """
    settings = {
        **os.environ,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        **settings,
    }
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *specs], cwd=root, env=settings, capture_output=True
    )
    assert run.returncode == 0, run.stderr.decode()
    return [json.loads(line) for line in run.stdout.decode().splitlines()]


HUB_ROOT, SHARD = "/datasets/uoft-cs", "{}-00000-of-00001.parquet"


def test_a_named_set_is_downloaded_once_and_read_like_a_local_file(tmp_path):
    file, fine = (
        write_parquet(tmp_path / f"{label}.parquet", label=label)
        for label in ("label", "fine_label")
    )
    files = {
        f"{HUB_ROOT}/cifar10/resolve/main/plain_text/{SHARD.format('train')}": file.read_bytes(),
        f"{HUB_ROOT}/cifar100/resolve/main/cifar100/{SHARD.format('test')}": fine.read_bytes(),
    }
    with Hub(files) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        specs = ("cifar10:train", "cifar100:test", "cifar10:train", "mnist:test", "cifar10:train")
        place = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "hub"),
        }
        *found, missing, kept = elsewhere(*specs, **place)
        hub.shutdown()
    assert hub.down and [path for path in hub.fetched if "/datasets/" in path] == list(files)
    assert [*found, kept] == [[load_data(file).sha256, ["a", "b", "c"]]] * 4
    assert re.fullmatch(
        "got mnist:test, which could not be downloaded .+; expected ylecun/mnist/.+; .+", missing
    )


# ---- Parquet


@pytest.mark.parametrize("column", ["img", "image", "picture"])
@pytest.mark.parametrize("label", ["label", "fine_label", "kind"])
@pytest.mark.parametrize("names", [("a", "b", "c"), ()])
def test_parquet_in_the_layout_of_the_hub(column, label, names, tmp_path):
    data = load_data(write_parquet(tmp_path / "x.parquet", column=column, label=label, names=names))
    assert is_color(data) and data.classes == (names or ("0", "1", "2"))


def test_parquet_that_is_gray_mixed_or_of_other_cells(tmp_path):
    gray = load_data(write_parquet(tmp_path / "gray.parquet", GRAY))
    assert gray.x.shape == (9, 1, 5, 4) and torch.equal(gray.x[:, 0], torch.from_numpy(GRAY))
    mixed = load_data(write_parquet(tmp_path / "mixed.parquet", [GRAY[0], *COLOR[1:]]))
    assert torch.equal(mixed.x[0], torch.from_numpy(GRAY[0]).expand(3, 5, 4)) and torch.equal(
        mixed.x[1:], load(1)
    )
    plain = write_parquet(tmp_path / "plain.parquet", cells=[png(each) for each in COLOR])
    assert is_color(load_data(plain))
    write_folder(tmp_path, COLOR)
    cells = [{"bytes": None, "path": f"{'abc'[k]}/{i}.png"} for i, k in enumerate(LABELS)]
    assert is_color(load_data(write_parquet(tmp_path / "paths.parquet", cells=cells)))


@pytest.mark.parametrize("target", ["..", ".", "../a", "../../.."])
def test_a_link_that_leads_to_a_folder_again_is_refused(target, tmp_path):
    folder = write_folder(tmp_path / "set" / "images")
    link = folder / "b" / "again"
    link.symlink_to(target)
    refused(lambda: load_data(folder), str(link), "every folder of images once", "remove the link")
    link.unlink()
    outside = (folder / "b").rename(tmp_path / "outside")
    (folder / "b").symlink_to(outside)  # a class may lie elsewhere
    assert len(load_data(folder)) == len(COLOR)


@pytest.mark.parametrize("place", ["0", "z", "a/0", "c/z"])
@pytest.mark.parametrize("real", ["b", "b/deeper"])
def test_the_link_is_named_and_not_the_images_whichever_comes_first(place, real, tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "b" / "deeper").mkdir()
    link, images = folder / place, folder / real
    link.symlink_to(images)
    refused(lambda: load_data(folder), f"got {link}, a link that leads to {images};")


def load(first):
    return torch.from_numpy(COLOR[first:]).permute(0, 3, 1, 2)


def test_a_label_that_nobody_declared_may_stand_beside_a_declared_one(tmp_path):
    file = write_parquet(tmp_path / "x.parquet", label="fine_label")
    table = pq.read_table(file).append_column("coarse_label", pa.array([0] * 9))
    pq.write_table(table, file)
    assert load_data(file).y.tolist() == LABELS


def test_shards_of_one_split_are_one_set(tmp_path):
    for i in range(3):
        part = slice(3 * i, 3 * i + 3)
        write_parquet(
            tmp_path / "set" / f"train-0000{i}-of-00003.parquet", COLOR[part], LABELS[part]
        )
    assert is_color(load_data(tmp_path / "set")) and is_color(
        load_data(f"{tmp_path}/set/train-*.parquet")
    )
    write_parquet(tmp_path / "set" / "test-00000-of-00001.parquet")
    message = refused(
        lambda: load_data(tmp_path / "set"), "several splits", "no test sample is trained on"
    )
    assert message.endswith("train*.parquet")
    assert is_color(load_data(f"{tmp_path}/set/train*.parquet"))
    refused(
        lambda: load_data(f"{tmp_path}/set/none*.parquet"), "matches 0 files", "check the pattern"
    )


def damaged(path):
    path.write_bytes(path.read_bytes()[:-40])
    return path


BAD_PARQUET = {
    "empty": (
        lambda p: write_parquet(
            p, [], pa.array([], pa.int64()), cells=pa.array([], pa.struct([("bytes", pa.binary())]))
        ),
        ["no images", "one sample or more"],
    ),
    "cut short": (
        lambda p: damaged(write_parquet(p)),
        ["cannot be read as Parquet (", "a whole Parquet file", "again"],
    ),
    "no parquet": (
        lambda p: p.write_bytes(b"<html>") and p,
        ["cannot be read as Parquet", "a whole Parquet file"],
    ),
    "nothing": (
        lambda p: p.write_bytes(b"") or p,
        ["cannot be read as Parquet", "a whole Parquet file"],
    ),
    "image damaged": (
        lambda p: write_parquet(p, cells=[{"bytes": png(COLOR[0])[:60], "path": ""}] * 9),
        ["row 0, which cannot be read as image (", "a whole image file"],
    ),
    "no format of images": (
        lambda p: write_parquet(p, cells=[{"bytes": b"xx", "path": ""}] * 9),
        ["row 0, which cannot be read as image (in no format that is known)"],
    ),
    "path to no image": (
        lambda p: write_parquet(p, cells=[{"bytes": None, "path": p.name}] * 9),
        ["x.parquet, row 0: x.parquet, which cannot be read as image (in no format that is known)"],
    ),
    "no image": (
        lambda p: write_parquet(p, cells=[{"bytes": png(GRAY[0])}] * 8 + [{"bytes": None}]),
        ["row 8 has no image"],
    ),
    "path leads nowhere": (
        lambda p: write_parquet(p, cells=[{"bytes": None, "path": "x.png"}] * 9),
        ["row 0: x.png"],
    ),
    "sizes differ": (
        lambda p: write_parquet(p, [*GRAY[:8], GRAY[8].T]),
        ["x.parquet, row 8 of 4x5 pixels", "5x4, as the first", "resize"],
    ),
    "16 bits": (
        lambda p: write_parquet(p, GRAY.astype(np.uint16) * 256),
        ["an image of mode I;16", "8 bits a channel"],
    ),
    "labels as text": (
        lambda p: write_parquet(p, labels=list("cababcabc"), label="label"),
        ["labels of type string", "class index", "number the classes"],
    ),
    "labels as text, undeclared": (
        lambda p: write_parquet(p, labels=list("cababcabc"), names=()),
        ["label (string)", "one label column", "name it 'label'"],
    ),
    "fractions": (
        lambda p: write_parquet(p, labels=[0.5] * 9),
        ["labels of type double", "class index"],
    ),
    "no label in a row": (
        lambda p: write_parquet(p, labels=[*LABELS[:8], None]),
        ["1 empty label;", "in every row"],
    ),
    "label too large": (
        lambda p: write_parquet(p, labels=[*LABELS[:8], 3]),
        ["labels from 0 to 3", "0 to 2 for 3"],
    ),
    "unlabeled": (
        lambda p: write_parquet(p, labels=[-1] * 9),
        ["labels from -1 to -1", "relabel from 0"],
    ),
    "no image column": (
        lambda p: pq.write_table(pa.table({"text": ["a"], "label": [0]}), p) or p,
        ["text (string)", "one image column", "name it 'image'"],
    ),
    "two image columns": (
        lambda p: pq.write_table(pa.table({"u": [b"a"], "v": [b"a"], "label": [0]}), p) or p,
        ["u (binary), v (binary)", "one image column"],
    ),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet_is_refused_in_one_line(name, tmp_path, cache):
    make, words = BAD_PARQUET[name]
    file = make(tmp_path / "x.parquet")
    refused(lambda: load_data(file), *words)
    assert not [file for file in cache.rglob("*") if file.suffix != ".lock"]


@pytest.mark.parametrize("package", ["pyarrow", "PIL.Image"])
def test_missing_packages_are_named(package, tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(
        sys.modules, package, None
    )  # what importing a package that is not there comes to
    words = [
        "without " + package.partition(".")[0],
        "the extra `data`",
        "pip install 'isthmus[data]'",
    ]
    refused(lambda: load_data(file), "x.parquet", *words)


def test_the_download_names_its_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(
        lambda: load_data("cifar10:train"),
        "cifar10:train",
        "huggingface_hub",
        "pip install 'isthmus[data]'",
    )


# ---- the cache


def test_images_are_decoded_once_until_the_file_changes(tmp_path, cache):
    file = write_parquet(tmp_path / "x.parquet")
    first = load_data(file)
    (kept,) = cache.glob("*.npy")
    marked = np.load(kept)
    marked[0] = 7
    np.save(kept, marked)
    assert bool((load_data(file).x[0] == 7).all()) and torch.equal(
        load_data(file).x[1:], first.x[1:]
    )
    write_parquet(file, COLOR[::-1], LABELS[::-1])
    assert is_color(load_data(file), COLOR[::-1].copy(), LABELS[::-1])


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_cache_is_made_again(content, tmp_path, cache):
    file = write_parquet(tmp_path / "x.parquet")
    load_data(file)
    (kept,) = cache.glob("*.npy")
    np.save(kept, COLOR[:2].transpose(0, 3, 1, 2)) if content is None else kept.write_bytes(content)
    assert is_color(load_data(file)) and len(np.load(kept)) == 9


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "taken" / "cache"))
    file = write_parquet(tmp_path / "x.parquet")
    with pytest.warns(Notice, match=r"cannot be kept in .+ all 9 are decoded into memory"):
        assert is_color(load_data(file))


def test_the_cache_is_where_the_user_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.delenv("ISTHMUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_data(write_parquet(tmp_path / "x.parquet"))
    assert len(list((tmp_path / "xdg" / "isthmus").glob("*.npy"))) == 1


# ---- image folders


@pytest.mark.parametrize(
    "suffix", [".png", ".PNG", ".jpg"]
)  # decoders look at the content, not the name
def test_image_folders(suffix, tmp_path):
    folder = write_folder(tmp_path / "images", suffix=suffix)
    (folder / ".hidden").mkdir()
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "d").mkdir()
    data = load_data(folder)
    order = sorted(range(9), key=lambda i: LABELS[i])
    assert is_color(data, COLOR[order], sorted(LABELS)) and data.classes == ("a", "b", "c", "d")
    assert load_data(f"{folder}/", classes=["x", "y", "z"]).classes == ("x", "y", "z")


def test_other_modes_of_images_become_color_or_gray(tmp_path):
    (tmp_path / "a").mkdir()
    for mode in ("RGBA", "P", "CMYK"):
        image = Image.fromarray(COLOR[0]).convert(mode)
        image.save(tmp_path / "a" / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    assert load_data(tmp_path).x.shape == (3, 3, 5, 4)
    assert torch.equal(load_data(tmp_path).x[2], load(0)[0])  # without its transparency
    for file in (tmp_path / "a").iterdir():
        Image.open(file).convert("LA").save(file.with_suffix(".png"))
    (tmp_path / "a" / "CMYK.tif").unlink()
    assert load_data(tmp_path).x.shape == (3, 1, 5, 4)


def with_text(folder):
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_text("no image")
    return folder


def flat(folder):
    folder.mkdir()
    (folder / "1.png").write_bytes(png(GRAY[0]))
    return folder


def bare(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            bare,
            [
                "no image in a folder of its own class",
                "CLASS/*.png",
                "put the images of each class",
            ],
        ),
        (flat, ["images outside any class", "CLASS/*.png", "put the images of each class"]),
        (
            lambda f: write_folder(f / "train").parent,
            ["CLASS/*.png, or Parquet files", "pass ", "train"],
        ),
        (with_text, ["1.png, which cannot be read as image", "a whole image file", "again"]),
        (
            lambda f: write_folder(f, [*GRAY[:8], GRAY[8].T]),
            ["8.png of 4x5 pixels", "5x4, as the first", "resize"],
        ),
    ],
)
def test_bad_folders_are_refused_in_one_line(make, words, tmp_path):
    folder = make(tmp_path / "images")
    refused(lambda: load_data(folder), str(folder), *words)


# ---- npz

CHANNELS_FIRST = COLOR.transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": CHANNELS_FIRST, "y": LABELS},
        {"x": COLOR, "y": LABELS},
        {"images": COLOR, "labels": np.array(LABELS)[:, None]},
        {"x": COLOR, "y": np.array(LABELS, np.uint8), "classes": np.array(["a", "b", "c"])},
        {"x": COLOR, "y": np.array(LABELS, np.float32), "classes": 3},
        {
            "x": CHANNELS_FIRST[:, ::-1][:, ::-1],
            "y": np.array(LABELS, ">i8"),
            "weights": np.ones(2),
        },
    ],
)
def test_npz_of_common_layouts(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    data = load_data(tmp_path / "x.npz")
    names = ("a", "b", "c") if np.ndim(arrays.get("classes")) else ("0", "1", "2")
    assert is_color(data) and data.classes == names


def test_npz_of_gray_and_floating_images(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=GRAY.astype(">f8") / 255, y=LABELS)
    data = load_data(tmp_path / "x.npz", classes=7)
    assert data.x.dtype == torch.float64 and data.x.shape == (9, 1, 5, 4) and data.num_classes == 7


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_what_is_saved_is_loaded(kind, tmp_path):
    x = torch.from_numpy(CHANNELS_FIRST.copy())
    data = Data(
        x if kind == torch.uint8 else (x / 255).to(kind),
        torch.tensor(LABELS),
        ["ä", "b", "c", "none of these"],
    )
    file = save_npz(data, tmp_path / "runs" / "x.npz")
    again = load_data(file)
    assert again.sha256 == data.sha256 and again.classes == data.classes
    assert save_npz(again, tmp_path / "y.npz").read_bytes() == file.read_bytes()
    refused(lambda: save_npz(data, tmp_path / "x.pt"), "x.pt", "ends in .npz", "x.npz")


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def flipped(path):
    """A file with one wrong byte in the middle of its images."""
    write_npz(path, x=COLOR, y=LABELS)
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    return path


def zipped_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "no array")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda p: write_npz(p, x_train=COLOR, y_train=LABELS),
            ["x_train, y_train", "x and y", "save each split"],
        ),
        (lambda p: write_npz(p), ["the arrays (none)", "x and y"]),
        (lambda p: write_npz(p, x=COLOR), ["the arrays x", "x and y, or images and labels"]),
        (
            lambda p: write_npz(p, x=np.array([{}, 1]), y=LABELS),
            ["Python objects", "could run code", "uint8 or float"],
        ),
        (
            lambda p: write_npz(p, x=COLOR, y=list("abcabcabc")),
            ["labels of type <U1", "int64", "number the classes"],
        ),
        (
            lambda p: write_npz(p, x=COLOR, y=np.eye(9)),
            ["labels of shape (9, 9)", "(9,)", "one label for each sample"],
        ),
        (
            lambda p: write_npz(p, x=COLOR, y=LABELS[:8]),
            ["labels of shape (8,)", "(9,)", "one label for each sample"],
        ),
        (
            lambda p: write_npz(p, x=COLOR, y=np.array(LABELS) + 0.5),
            ["not whole numbers", "class indices", "int64"],
        ),
        (
            lambda p: write_npz(p, x=COLOR, y=LABELS, classes=2),
            ["labels from 0 to 2", "0 to 1 for 2 classes"],
        ),
        (
            lambda p: write_npz(p, x=COLOR.astype(float), y=LABELS),
            ["inputs from", "[0, 1]", "divide 0..255"],
        ),
        (
            lambda p: write_npz(p, x=COLOR.astype(int), y=LABELS),
            ["torch.int64", "uint8 or floating"],
        ),
        (
            lambda p: write_npz(p, x=COLOR.astype(str), y=LABELS),
            ["images of type <U", "uint8 or float", "convert x"],
        ),
        (
            lambda p: write_npz(p, x=COLOR[0, 0], y=[0] * 4),
            ["images of shape (4, 3)", "(n, c, h, w)", "reshape x"],
        ),
        (
            lambda p: write_npz(p, x=COLOR[:0], y=np.zeros(0, int)),
            ["no images", "one sample or more"],
        ),
        (
            lambda p: damaged(write_npz(p, x=COLOR, y=LABELS)),
            ["cannot be read as .npz (", "a whole .npz file"],
        ),
        (flipped, ["cannot be read as .npz (", "a whole .npz file"]),
        (zipped_text, ["x.npz", "expected"]),
        (lambda p: p.write_bytes(b"") or p, ["cannot be read as .npz", "a whole .npz file"]),
        (lambda p: p.write_bytes(b"nonsense") and p, ["x.npz", "expected"]),
        (
            lambda p: np.save(p.with_suffix(".npy"), COLOR) or p.with_suffix(".npy").rename(p),
            ["cannot be read as .npz"],
        ),
    ],
)
def test_bad_npz_is_refused_in_one_line(make, words, tmp_path):
    file = make(tmp_path / "x.npz")
    refused(lambda: load_data(file), *words)


# ---- paths and draws


def test_other_files_are_refused_with_what_is_near(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "data.pt")
    refused(
        lambda: load_data(tmp_path / "data.pt"),
        "type .pt",
        "Parquet, .npz, or a folder",
        "pickles can run code",
    )
    (tmp_path / "data.csv").write_text("1,2")
    refused(
        lambda: load_data(tmp_path / "data.csv"),
        "type .csv",
        "Parquet, .npz, or a folder",
        "save_npz",
    )
    refused(
        lambda: load_data(tmp_path / "date.csv"),
        "date.csv, which does not exist",
        "did you mean data.csv",
    )
    refused(
        lambda: load_data("no_such_folder/x.npz"),
        "does not exist",
        "a file or folder",
        "check the spelling",
    )


def test_draws_are_disjoint_from_their_rest_and_repeatable():
    few, again, other = (load_data(f"digits#n=40,seed={seed}").sha256 for seed in (1, 1, 2))
    assert few == again != other
    parts = [load_data(f"digits#{text},seed=3") for text in ("n=40", "skip=40,n=60", "skip=100")]
    assert [len(part) for part in parts] == [40, 60, 1697]
    assert (
        len({bytes(x) for part in parts for x in (part.x * 16).byte().flatten(1).numpy()}) == 1797
    )
    assert (
        load_data("digits#n=1797").y.bincount().tolist()
        == load_data("digits").y.bincount().tolist()
    )


def test_a_mark_in_a_file_name_is_no_draw(tmp_path):
    file = save_npz(load_data("digits#n=20"), tmp_path / "run#n=3.npz")
    assert len(load_data(file)) == 20 and len(load_data(f"{file}#n=3")) == 3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digits:test#n=501", ["asks for 501 samples", "1 to 500 in all", "write #n=500 or less"]),
        ("digits:test#n=400,skip=101", ["asks for 400 samples after 101", "1 to 500 in all"]),
        ("digits:test#n=400,skip=101", ["write #n=399 or less"]),
        ("digits:test#skip=500", ["asks for 0 samples after 500", "write #skip=499 or less"]),
        ("digits:test#n=1,skip=500", ["asks for 1 sample after 500"]),
        ("digits:test#skip=600", ["asks for 0 samples after 600", "write #skip=499 or less"]),
        ("digits:test#n=5,skip=500", ["asks for 5 samples after 500", "write #skip=495 or less"]),
        ("digits:test#n=900,skip=500", ["asks for 900 samples", "write #n=1,skip=499"]),
        ("digits:test#n=0,skip=500", ["asks for 0 samples after 500", "write #n=1,skip=499"]),
        ("digits:test#n=5,n=6", ["'n=5,n=6'", "once each"]),
        ("digits:test#seed=1,n=5,seed=1", ["'seed=1,n=5,seed=1'", "once each"]),
        ("digits:test#n=0", ["asks for 0 samples", "1 to 500 in all"]),
        ("digits:test#n=-3", ["'n=-3'", "n=COUNT", "write digits:test#n=500,seed=0"]),
        ("digits:test#500", ["'500'", "n=COUNT", "write digits:test#n=500,seed=0"]),
        ("digits:test#n=5,", ["'n=5,'", "n=COUNT"]),
        ("digits:test#count=5", ["'count=5'", "n=COUNT"]),
        ("digit#n=5", ["unknown data 'digit'", "did you mean digits"]),
    ],
)
def test_bad_draws_are_refused_in_one_line(spec, words):
    refused(lambda: load_data(spec), *words)


def test_what_a_refused_draw_of_a_small_set_says_can_be_drawn(tmp_path):
    file = save_npz(load_data("digits#n=2"), tmp_path / "two.npz")
    refused(lambda: load_data(f"{file}#n=9,skip=2"), "asks for 9 samples", "write #n=1,skip=1")
    assert len(load_data(f"{file}#n=1,skip=1")) == 1


@pytest.mark.slow
@pytest.mark.skipif("ISTHMUS_DATA" not in os.environ, reason="ISTHMUS_DATA names no folder of data")
@pytest.mark.parametrize(("name", "shape"), [("cifar10", (3, 32, 32)), ("mnist", (1, 28, 28))])
def test_real_sets(name, shape):
    folder = Path(os.environ["ISTHMUS_DATA"]) / name
    test = load_data(folder / "test.parquet")
    assert (
        test.x.shape == (10_000, *shape)
        and test.num_classes == 10
        and test.y.bincount().min() > 800
    )
    assert load_data(folder / "test.parquet").sha256 == test.sha256
    refused(lambda: load_data(folder), "several splits")


def test_every_named_set_is_known():
    assert {"digits", "digits:train", "cifar10:train", "cifar100:test", "svhn:test"} <= set(NAMED)
