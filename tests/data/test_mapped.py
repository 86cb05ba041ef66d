"""Data beyond memory: the same samples, hash and accuracy as in memory, whatever becomes of the
cache; and memory that does not grow with the data.
"""

import io
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.peaks import evaluated
from support.refusals import refused
from torch import nn

from isthmus.attacks import PGD, Patch, changed, poison
from isthmus.data import Data, Linf, as_data, load_data, mapped, split
from isthmus.data.mapped import RowFile, gathered, mapped_npy
from isthmus.data.pixels import pixels_of
from isthmus.data.sources import encoded, kept
from isthmus.data.sources.kept import made_and_kept
from isthmus.data.sources.parquet import read_shards
from isthmus.data.splits import among, repeated
from isthmus.metrics import Accuracy, AttackSuccess
from isthmus.metrics.passes import attacked
from isthmus.runs.notices import Notice

N, SIDE = 24, 8
GENERATOR = np.random.default_rng(0)
COLOR = GENERATOR.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
GRAY = 5  # every fifth image, the first one among them


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ISTHMUS_CACHE", str(folder))
    return folder


@pytest.fixture
def beyond(monkeypatch):
    """Every set is too large for memory, and every part holds a few images."""
    monkeypatch.setattr(mapped, "IN_MEMORY", 100)
    monkeypatch.setattr(mapped, "PART", 4 * 4 * 3 * SIDE * SIDE)


def picture(i, every=GRAY):
    return COLOR[i, ..., 0] if i % every == 0 else COLOR[i]


def folder_of_images(folder, every=GRAY):
    for i in range(N):
        (folder / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i, every)).save(folder / "abc"[i % 3] / f"{i:02d}.bmp")
    return folder


def parquet(folder, every=GRAY):
    buffers = [BytesIO() for _ in range(N)]
    for i, buffer in enumerate(buffers):
        Image.fromarray(picture(i, every)).save(buffer, "png")
    rows = [{"bytes": buffer.getvalue(), "path": ""} for buffer in buffers]
    table = pa.table({"image": rows, "label": [i % 3 for i in range(N)]})
    folder.mkdir()
    for k, part in enumerate((table[:7], table[7:])):
        pq.write_table(part, folder / f"part-{k}.parquet", row_group_size=5)
    return folder


SOURCES = {"folder": folder_of_images, "parquet": parquet}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return SOURCES[request.param](tmp_path / "set")


def naive(source):
    """The samples as a person would read them, all in memory."""
    order = list(range(N))
    if not list(source.glob("*.parquet")):
        order.sort(key=lambda i: (i % 3, i))
    images = [np.broadcast_to(picture(i).reshape(SIDE, SIDE, -1), COLOR[0].shape) for i in order]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Data(x, torch.tensor([i % 3 for i in order]), "abc" if order != list(range(N)) else 3)


def equal(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.classes == b.classes


def decoded(monkeypatch):
    """Count the images that are decoded from now on."""
    names = []

    def counted(image, name=""):
        names.append(name)
        return pixels_of(image, name)

    monkeypatch.setattr(encoded, "pixels_of", counted)
    return names


# ---- the same as in memory


def test_what_is_mapped_equals_what_is_in_memory(source):
    cold, warm, twin = load_data(source), load_data(source), naive(source)
    assert equal(cold, twin) and equal(warm, twin)
    assert cold.sha256 == warm.sha256 == twin.sha256


def test_a_set_is_gray_where_all_its_images_are(tmp_path):
    for name, make in SOURCES.items():
        assert load_data(make(tmp_path / name, every=1)).x.shape == (N, 1, SIDE, SIDE)


def test_what_is_made_of_large_data_equals_what_is_made_in_memory(source, beyond, cache):
    data, twin = load_data(source), naive(source)
    rows = torch.randperm(N)[:17]
    assert equal(data[rows], twin[rows]) and equal(data[data.y == 1], twin[twin.y == 1])
    assert equal(data[-rows], twin[-rows])
    parts = [split(each, [11, 7], torch.Generator().manual_seed(1)) for each in (data, twin)]
    assert all(map(equal, *parts))
    shared = among(data, twin[rows])
    assert bool(shared[rows].all()) and int(shared.sum()) == len(rows)
    assert torch.equal(among(Data(data.floats(), data.y, 3), twin[rows]), shared)
    assert not repeated(data).any() and repeated(data[torch.tensor([0, 3, 0])]).tolist()[2]
    assert not list(cache.glob("tmp*"))  # files without names


ARRAYS = {
    "bytes, channels last": lambda: COLOR,
    "bytes, channels first": lambda: np.ascontiguousarray(COLOR.transpose(0, 3, 1, 2)),
    "by columns": lambda: np.asfortranarray(COLOR),
    "floats of another machine": lambda: (COLOR / 255).astype(">f4"),
    "gray": lambda: COLOR[..., 0],
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_archive_beyond_memory_is_read_as_one_in_memory(
    kind, write, tmp_path, monkeypatch, cache
):
    write(tmp_path / "x.npz", x=ARRAYS[kind](), y=np.arange(N) % 3)
    twin = load_data(tmp_path / "x.npz")
    monkeypatch.setattr(mapped, "IN_MEMORY", 100)
    for part in (1, 7 * 3 * SIDE * SIDE, 2**20):
        monkeypatch.setattr(mapped, "PART", part)
        data = load_data(tmp_path / "x.npz")
        assert equal(data, twin) and data.sha256 == twin.sha256
    assert (cache.exists() and not list(cache.iterdir())) or twin.x.nbytes <= 100


@pytest.mark.parametrize("part", [1, 2**20])
def test_an_archive_with_a_wrong_byte_is_refused_however_it_is_read(part, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=COLOR, y=np.arange(N) % 3)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[COLOR.nbytes // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    monkeypatch.setattr(mapped, "IN_MEMORY", 100)
    monkeypatch.setattr(mapped, "PART", part)
    refused(lambda: load_data(tmp_path / "x.npz"), "cannot be read as .npz (", "CRC")


def test_an_archive_whose_shape_is_a_lie_is_refused_and_takes_no_memory(tmp_path):
    for shape in ((10**9, 8, 8), (1, 10**6, 10**6), (2**40, 2**40, 1)):
        header = io.BytesIO()
        held = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, held)
        np.savez(tmp_path / "x.npz", y=np.zeros(3, int))
        with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
            archive.writestr("x.npy", header.getvalue() + bytes(300))
        refused(lambda: load_data(tmp_path / "x.npz"), "does not have the size")


def test_attackers_and_metrics_answer_as_in_memory(source, beyond, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    ball = Linf(8 / 255)

    def answers(data):
        poisoned = poison(
            data, Patch(), rate=0.5, target=1, generator=torch.Generator().manual_seed(0)
        )
        metrics = Accuracy(data)(net), AttackSuccess(data, Patch(), 1)(net)
        moved = attacked(net, data, PGD(ball, steps=2, seed=0))
        return [poisoned.sha256, int(changed(data, poisoned).sum()), *metrics, moved.sha256]

    large = answers(load_data(source))
    monkeypatch.undo()
    assert large == answers(naive(source))


def test_a_stream_of_pairs_is_gathered_in_a_file(beyond):
    twin = torch.rand(N, 3, SIDE, SIDE)
    data = as_data((x, i % 3) for i, x in enumerate(twin))
    assert torch.equal(data.x, twin) and data.y.tolist() == [i % 3 for i in range(N)]
    for odd in (torch.rand(3, SIDE, 2), torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)):
        pairs = ((x, 0) for x in [*twin, odd])
        refused(lambda pairs=pairs: as_data(pairs), "does not yield images", "one image shape")


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_gathering_is_concatenation(kind, beyond):
    parts = [torch.rand(n, 2, 5).mul(9).to(kind) for n in (3, 1, 7, 30)]
    whole = gathered(iter(parts))
    assert torch.equal(whole, torch.cat(parts)) and whole.dtype == kind
    whole[0] = 0  # and may be written
    assert not whole[0].any() and torch.equal(whole[3:], torch.cat(parts)[3:])


# ---- draws


@pytest.mark.parametrize("text", ["n=3", "n=12,seed=4", "n=5,skip=6", "skip=2", "n=24"])
@pytest.mark.parametrize("warm", [False, True])
def test_draws_are_rows_of_the_whole_and_decode_no_others(text, warm, source, monkeypatch):
    if warm:
        load_data(source)
    names = decoded(monkeypatch)
    drawn = load_data(f"{source}#{text}")
    count = len(drawn)
    assert len(names) == (0 if warm else count if 2 * count <= N else N)
    seed = int(text.partition("seed=")[2] or 0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    skip = int((text.partition("skip=")[2] or "0").split(",")[0])
    assert equal(drawn, naive(source)[order[skip : skip + count]])


def test_a_draw_knows_all_classes_and_channels_of_its_set(tmp_path):
    source = parquet(tmp_path / "set")
    for seed in range(40):
        one = load_data(f"{source}#n=1,seed={seed}")
        assert one.num_classes == 3 and one.x.shape == (1, 3, SIDE, SIDE)


# ---- what becomes of the cache


def test_a_source_that_changes_is_decoded_again(source, cache):
    before = load_data(source)
    old = naive(source)
    file = min(path for path in source.rglob("*") if path.is_file())
    now = file.stat()
    if file.suffix == ".bmp":  # of one size, and dated as before
        Image.fromarray(255 - picture(0)).save(file)
        os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns))
        assert file.stat().st_size == now.st_size
    else:
        table = pq.read_table(file)
        pq.write_table(table.take([1, 0, *range(2, len(table))]), file)
    after = load_data(source)
    assert torch.equal(after.x[7:], before.x[7:]) and not torch.equal(after.x[0], before.x[0])
    assert len(list(cache.glob("*.npy"))) == 1  # the older one is gone
    assert equal(before, old)  # and a process that maps it keeps it


def test_added_and_removed_images_are_noticed(tmp_path):
    source = folder_of_images(tmp_path / "set")
    load_data(source)
    shutil.copy(source / "a/00.bmp", source / "a/99.bmp")
    assert len(load_data(source)) == N + 1
    (source / "a/99.bmp").unlink()
    assert equal(load_data(source), naive(source))


@pytest.mark.parametrize("cut", [1, 40, 10**9])
def test_a_truncated_cache_is_written_again(cut, source, cache):
    load_data(source)
    (file,) = cache.glob("*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[: max(0, len(whole) - cut)])
    assert equal(load_data(source), naive(source))
    assert file.read_bytes() == whole


def test_what_a_killed_process_left_is_removed(source, cache):
    load_data(source)
    (file,) = cache.glob("*.npy")
    file.rename(file.with_name(f".{file.name}.123.tmp"))
    assert equal(load_data(source), naive(source))
    assert file.exists() and not list(cache.glob(".*.tmp"))


def test_what_is_written_to_images_stays_in_the_process(source):
    load_data(source).x.zero_()
    assert equal(load_data(source), naive(source))


def test_many_at_once_decode_once(source, cache, monkeypatch):
    names = decoded(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        assert all(equal(data, naive(source)) for data in pool.map(load_data, [source] * 4))
    assert len(names) == N and len(list(cache.glob("*.npy"))) == 1


def test_images_that_others_have_kept_meanwhile_are_taken(source, cache):
    """As by one of many that looked before the first had written its file."""
    images = load_data(source).x
    (file,) = cache.glob("*.npy")
    made = made_and_kept(file, N, lambda: pytest.fail("decoded again"))
    assert torch.equal(made, images)


LOAD = "import sys; from isthmus.data import load_data; print(load_data(sys.argv[1]).sha256)"


def loading(source, before=None):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-W", "always", "-c", LOAD, str(source)]
    return subprocess.Popen(
        command, cwd=root, preexec_fn=before, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_two_processes_make_one_cache(source, cache):
    answers = [run.communicate()[0] for run in [loading(source), loading(source)]]
    assert [answer.decode().strip() for answer in answers] == [naive(source).sha256] * 2
    assert [file.suffix for file in cache.iterdir()].count(".npy") == 1
    assert not list(cache.glob("*.tmp")) and not list(cache.glob(".*.tmp"))


def test_a_full_disk_is_one_line(source, cache):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    out, error = loading(source, small_files).communicate()
    assert out.decode().strip() == naive(source).sha256
    assert error.decode().count("all 24 are decoded into memory") == 1
    assert not [file for file in cache.rglob("*") if file.suffix != ".lock"]


def test_too_little_room_is_said_before_the_work(source, monkeypatch):
    names = decoded(monkeypatch)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.warns(Notice, match=r"\(No space left on device\): all 24 are decoded into mem"):
        assert equal(load_data(source), naive(source))
    assert len(names) == N + 1


def test_rows_stay_in_memory_where_no_file_takes_them(source, beyond, tmp_path, monkeypatch):
    data = load_data(source)
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "taken" / "cache"))
    with pytest.warns(Notice, match="no file for what takes much memory .+: memory holds it"):
        assert equal(data[torch.arange(N)], naive(source))


def test_rows_written_before_the_disk_was_full_are_kept(beyond, monkeypatch):
    parts = [torch.full((1, 9), float(i)) for i in range(20)]
    write = RowFile._write

    def filling(self, content):
        if self.shape[0] >= 11:
            raise mapped.Unwritable("full")
        write(self, content)

    monkeypatch.setattr(RowFile, "_write", filling)
    with pytest.warns(Notice, match=r"\(full\): memory holds it"):
        assert torch.equal(gathered(iter(parts)), torch.cat(parts))


def test_a_damaged_image_is_named_and_nothing_is_kept(tmp_path, cache):
    source = folder_of_images(tmp_path / "set")
    bad = source / "c/11.bmp"
    bad.write_bytes(bad.read_bytes()[:100])
    refused(lambda: load_data(source), str(bad), "cannot be read as image", "whole image file")
    assert not list(cache.glob("*.npy")) and not list(cache.glob(".*.tmp"))
    bad.unlink()
    bad.symlink_to(tmp_path / "nowhere.bmp")
    refused(lambda: load_data(source), str(bad), "cannot be read as image")


def test_rows_that_are_gone_when_they_are_read_are_noticed(tmp_path):
    encoded_rows = read_shards("set", sorted(parquet(tmp_path / "set").glob("*.parquet")), None)
    last = tmp_path / "set" / "part-1.parquet"
    pq.write_table(pq.read_table(last)[:-1], last)
    refused(encoded_rows.data, "24 images and then 23", "stay as they are")


# ---- memory


def test_a_set_larger_than_memory_can_be_mapped(tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = 4 * memory // (3 * 224 * 224)
    path = tmp_path / "large.npy"
    with path.open("wb", buffering=0) as file:
        written = RowFile(file)
        written.shape = (rows, 3, 224, 224)
        written.finish()
        file.truncate(128 + rows * 3 * 224 * 224)  # a hole, which takes no room
    x = mapped_npy(path, rows)
    assert x.shape == (rows, 3, 224, 224) and not x[-1].any()
    x[0, 0, 0, 0] = 1
    assert int(x[0].sum()) == 1 and mapped_npy(path, rows)[0].sum() == 0


def same_pictures(folder, count, side):
    """Many files of a few pictures."""
    contents = []
    for image in GENERATOR.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8):
        buffer = BytesIO()
        Image.fromarray(image).resize((side, side)).save(buffer, "jpeg")
        contents.append(buffer.getvalue())
    for i in range(count):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[i % 2] / f"{i:06d}.jpg").write_bytes(contents[i % 8])
    return folder


def peaks(tmp_path, counts, side, **limits):
    """What evaluating these numbers of images takes: the peak, and a cold and a warm run."""
    for count in counts:
        folder = same_pictures(tmp_path / str(count), count, side)
        runs = [evaluated(folder, **limits, **os.environ) for _ in range(2)]
        assert runs[0]["sha256"] == runs[1]["sha256"]
        assert runs[0]["among"] == runs[1]["among"] == count // 2  # every other of 8 pictures
        assert runs[0]["accuracy"] == runs[1]["accuracy"]
        yield max(run["memory"] for run in runs), runs


def test_memory_does_not_grow_with_the_images(tmp_path):
    (few, _), (many, _) = peaks(tmp_path, (300, 1500), 64, in_memory=2**21, part=2**20)
    # 1,200 images are 15 MB, as floats 59
    assert many - few < 10, (few, many)


@pytest.mark.slow
def test_memory_does_not_grow_with_images_of_224_pixels(tmp_path):
    (few, _), (many, runs) = peaks(tmp_path, (1000, 4000), 224, in_memory=2**26, part=2**24)
    print(few, many, runs)
    assert many - few < 60, (few, many)  # 3,000 images are 452 MB, as floats 1,806
