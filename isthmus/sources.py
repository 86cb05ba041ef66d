"""`load_data`: data by name or path, decoded once and then cached; `save_npz`: what it reads again.

Parquet and images are read by packages that not everybody needs: `pip install isthmus[data]`.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data import Data, as_data, split
from isthmus.files import write_atomically
from isthmus.types import BadInput, closest

Classes = Sequence[str] | int | None

# Name: repository on the Hugging Face hub, folder in it. Each part is one Parquet file there.
HUB = {
    "cifar10": ("uoft-cs/cifar10", "plain_text"),
    "cifar100": ("uoft-cs/cifar100", "cifar100"),
    "mnist": ("ylecun/mnist", "mnist"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "fashion_mnist"),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
}
PARTS = ("train", "test")
NAMED = ("digits", *(f"{name}:{part}" for name in ("digits", *HUB) for part in PARTS))

_DIGITS_TRAIN = 1297
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels", "target", "y")
_DECODER = "1"  # part of the cache's key: raise it when decoding changes


def _optional(module: str, what: str) -> Any:
    """Import a package that only some data need."""
    try:
        return import_module(module)
    except ImportError as error:
        raise BadInput(
            f"{what}, and no package {module.partition('.')[0]} to read it",
            expected="the optional packages for data",
            fix="pip install 'isthmus[data]'",
        ) from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no details'}"


def _damaged(path: Path | str, error: BaseException, what: str) -> BadInput:
    return BadInput(
        f"{path}, which cannot be read as {what} ({_reason(error)})",
        expected=f"a whole {what} file",
        fix="copy or download it again",
    )


# ---- named sets


def _digits(part: str) -> Data:
    """Return scikit-learn's 1,797 digits, (n, 1, 8, 8) in [0, 1]; train and test are fixed, disjoint and shuffled."""
    found = import_module("sklearn.datasets").load_digits()
    x = torch.from_numpy(found.images / 16).float()[:, None]
    # numpy keeps this stream the same for ever; torch does not promise to.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(x)))
    chosen = {"": torch.arange(len(x)), "train": order[:_DIGITS_TRAIN], "test": order[_DIGITS_TRAIN:]}[part]
    return Data(x, torch.from_numpy(found.target).long(), 10)[chosen]


def _download(name: str, part: str) -> Path:
    """Return the set's Parquet file, downloaded by the hub's own package, which keeps it."""
    hub = _optional("huggingface_hub", f"{name}:{part}")
    repository, folder = HUB[name]
    file = f"{folder}/{part}-00000-of-00001.parquet"
    try:
        return Path(hub.hf_hub_download(repository, file, repo_type="dataset"))
    except Exception as error:  # which errors depends on the package's version and its HTTP library
        raise BadInput(
            f"{name}:{part}, which could not be downloaded ({_reason(error)})",
            expected=f"{repository}/{file} from the Hugging Face hub, or from its cache",
            fix="check the connection, set HF_ENDPOINT to a mirror, or pass a Parquet file of your own",
        ) from error


def _named(spec: str, classes: Classes) -> Data:
    """Return a named set. Raises BadInput where set or part is unknown."""
    name, _, part = spec.partition(":")
    if spec not in NAMED:
        raise BadInput(f"unknown data {spec!r}", expected="a named set or a path that exists", fix=closest(spec, NAMED))
    return _relabelled(_digits(part), classes) if name == "digits" else _parquet([_download(name, part)], classes)


def _data(x: torch.Tensor, y: torch.Tensor, asked: Classes, said: Classes) -> Data:
    """Return Data with the classes that were asked for, else those the source says, else as many as the labels need."""
    if asked is None and said is None:
        return as_data((x, y))
    return Data(x, y, said if asked is None else asked)  # type: ignore[arg-type]


def _relabelled(data: Data, classes: Classes) -> Data:
    return data if classes is None else Data(data.x, data.y, classes)


# ---- images


def _pixels(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    """Decode one image: (1, h, w) where it is grey, else (3, h, w)."""
    image_module = _optional("PIL.Image", name)
    try:
        with image_module.open(source) as image:
            mode, grey = image.mode, image.mode in ("L", "LA", "1")
            array = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    except Exception as error:  # each format raises errors of its own
        raise _damaged(name, error, "image") from error
    if mode.startswith(("I", "F")):
        raise BadInput(f"{name}, an image of mode {mode}", expected="8 bits a channel", fix="convert it first")
    return array[None] if grey else array.transpose(2, 0, 1)


def _stacked(images: Iterable[NDArray[np.uint8]], name: Callable[[int], str]) -> NDArray[np.uint8]:
    """Stack images of one size, (n, c, h, w): grey where all are, else in colour. `name` names the i-th in errors."""
    found: list[NDArray[np.uint8]] = []
    for i, each in enumerate(images):
        if found and each.shape[1:] != found[0].shape[1:]:
            raise BadInput(
                f"{name(i)} of {each.shape[1]}x{each.shape[2]} pixels",
                expected=f"{found[0].shape[1]}x{found[0].shape[2]}, as the first",
                fix="resize all images to one size",
            )
        found.append(each)
    if not found:
        raise BadInput("no images", expected="one sample or more", fix="check the path or the split")
    channels = max(len(each) for each in found)
    return np.stack([np.broadcast_to(each, (channels, *each.shape[1:])) for each in found])


def _image_folder(folder: Path, classes: Classes) -> Data:
    """Return the images of folder/CLASS/*, the classes in the order of their sorted names, as others sort them."""
    names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    files = [(file, label) for label, name in enumerate(names) for file in _images_in(folder / name)]
    if not files:
        deeper = [name for name in names if any(_images_in(sub) for sub in (folder / name).iterdir() if sub.is_dir())]
        held = "images outside any class" if _images_in(folder) else "no image in a folder of its own class"
        raise BadInput(
            f"{folder}, which holds {held}",
            expected=f"{folder}/CLASS/*.png, or Parquet files",
            fix=f"pass {folder / deeper[0]}" if deeper else "put the images of each class into a folder of its name",
        )
    images = _stacked((_pixels(file, str(file)) for file, _ in files), lambda i: str(files[i][0]))
    return Data(
        torch.from_numpy(images), torch.tensor([label for _, label in files]), names if classes is None else classes
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in _IMAGES and not f.name.startswith("."))


# ---- Parquet


def _features(schema: Any) -> dict[str, Any]:
    """Return what Hugging Face `datasets` says of the columns, in the schema's metadata; {} where it says nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _column(path: Path, schema: Any, kind: str, usual: Sequence[str], fits: Callable[[Any], bool]) -> str:
    """Return the column of that kind ("Image", "ClassLabel"): of a usual name, else the only one that fits."""
    features = _features(schema)
    declared = [n for n in schema.names if isinstance(features.get(n), dict) and features[n].get("_type") == kind]
    for among in (declared, [n for n in schema.names if fits(schema.field(n).type)]):
        named = [name for name in usual if name in among]
        if named or len(among) == 1:
            return (named or among)[0]
    what = "image" if kind == "Image" else "label"
    raise BadInput(
        f"{path} with the columns {', '.join(f'{n} ({schema.field(n).type})' for n in schema.names)}",
        expected=f"one {what} column, " + ("encoded images" if kind == "Image" else "whole numbers"),
        fix=f"name it {usual[0]!r}",
    )


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    """Return the names of the image column and of the label column."""
    types = import_module("pyarrow").types

    def encoded(kind: Any) -> bool:
        holds = types.is_binary(kind) or types.is_large_binary(kind)
        return bool(holds or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0))

    return (
        _column(path, schema, "Image", _IMAGE_COLUMNS, encoded),
        _column(path, schema, "ClassLabel", _LABEL_COLUMNS, types.is_integer),
    )


def _bytes(cell: Any, path: Path, row: int) -> io.BytesIO:
    """Return the encoded image in a cell: bytes, or a struct of bytes and path, the path relative to the file's."""
    held = cell.get("bytes") if isinstance(cell, dict) else cell
    if held is None and isinstance(cell, dict) and cell.get("path"):
        try:
            held = (path.parent / cell["path"]).read_bytes()
        except OSError as error:
            raise _damaged(f"{path}, row {row}: {cell['path']}", error, "image") from error
    if held is None:
        raise BadInput(f"{path}, where row {row} has no image", expected="an image in every row", fix="drop that row")
    return io.BytesIO(held)


def _decode(files: Sequence[Path], column: str) -> NDArray[np.uint8]:
    """Decode all images of the files in order, (n, c, h, w) uint8."""
    parquet = import_module("pyarrow.parquet")

    def images() -> Iterator[NDArray[np.uint8]]:
        for path in files:
            row = 0
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024, columns=[column]):
                    for cell in batch.column(0).to_pylist():
                        yield _pixels(_bytes(cell, path, row), f"{path}, row {row}")
                        row += 1

    return _stacked(images(), lambda i: f"image {i} of {files[0]}{', ...' if len(files) > 1 else ''}")


def _labels(files: Sequence[Path], column: str) -> torch.Tensor:
    """Return the labels of the files in order, (n,) int64."""
    parquet = import_module("pyarrow.parquet")
    tables = [(path, parquet.read_table(path, columns=[column])[column]) for path in files]
    for path, held in tables:
        if held.null_count or not import_module("pyarrow").types.is_integer(held.type):
            kind = f"{held.null_count} empty labels" if held.null_count else f"labels of type {held.type}"
            raise BadInput(f"{path}, {kind}", expected="a class index in every row", fix="number the classes from 0")
    return torch.from_numpy(np.concatenate([held.to_numpy().astype(np.int64) for _, held in tables]))


def _cache_folder() -> Path | None:
    """Return where decoded images are kept: ISTHMUS_CACHE, else isthmus in XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("ISTHMUS_CACHE"):
        return Path(os.environ["ISTHMUS_CACHE"])
    with suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus"
    return None


def _cached(files: Sequence[Path], column: str, rows: int, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return what was made of these files before, as long as none of them has changed; else make and keep it."""
    folder = _cache_folder()
    if folder is None:
        return make()
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    kept = folder / f"{hashlib.sha256(repr((_DECODER, column, states)).encode()).hexdigest()}.npy"
    with suppress(OSError, ValueError, EOFError):  # absent or damaged: decode again
        images: NDArray[np.uint8] = np.load(kept, allow_pickle=False)
        if images.dtype == np.uint8 and images.ndim == 4 and len(images) == rows:
            return images
    images = make()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, images)

    with suppress(BadInput):  # the cache saves time and nothing else
        write_atomically(kept, write)
    return images


def _parquet(files: Sequence[Path], classes: Classes) -> Data:
    """Return the rows of Parquet files in order; the names of the classes are those in the first one's schema."""
    arrow = _optional("pyarrow", str(files[0]))
    parquet = _optional("pyarrow.parquet", str(files[0]))
    try:
        schema = parquet.read_schema(files[0])
        image, label = _columns(files[0], schema)
        y = _labels(files, label)
        x = _cached(files, image, len(y), lambda: _decode(files, image))
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise _damaged(", ".join(map(str, files[:3])), error, "Parquet") from error
    feature = _features(schema).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return _data(torch.from_numpy(x), y, classes, names)


def _shards(pattern: str, files: Sequence[Path], classes: Classes) -> Data:
    """Return the Parquet files of one split as one set, in the order of their names."""
    splits = {word for file in files for word in re.findall("(?<![a-z])(?:train|test|val|dev)", file.stem.lower())}
    if len(splits) > 1:
        raise BadInput(
            f"{pattern} with files of several splits ({', '.join(sorted(file.name for file in files)[:4])})",
            expected="the files of one split, so that no test sample is trained on",
            fix=f"name one file, or a pattern such as {files[0].parent / 'train*.parquet'}",
        )
    return _parquet(sorted(files), classes)


# ---- npz


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zip, zlib and numpy raise errors of their own on damage
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise BadInput(
                f"{path}, which holds Python objects and not only numbers",
                expected="plain arrays: objects could run code and are not loaded",
                fix="save x as uint8 or float and y as int64",
            ) from error
        raise _damaged(path, error, ".npz") from error


def _channels_first(path: Path, x: NDArray[Any]) -> NDArray[Any]:
    """Return images (n, h, w), (n, h, w, c) or (n, c, h, w) as the last; channels are 4 at most."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] > 4 >= x.shape[3]:
        return x.transpose(0, 3, 1, 2)
    if x.ndim == 4:
        return x
    raise BadInput(f"{path} with images of shape {x.shape}", expected="(n, c, h, w) or (n, h, w, c)", fix="reshape x")


def _npz(path: Path, classes: Classes) -> Data:
    """Return the arrays x and y, or images and labels, of a file; `classes` in it is a count or the names."""
    arrays = _arrays(path)
    pair = next((p for p in (("x", "y"), ("images", "labels")) if p[0] in arrays and p[1] in arrays), None)
    if pair is None:
        raise BadInput(
            f"{path} with the arrays {', '.join(sorted(arrays)) or '(none)'}",
            expected="x and y, or images and labels: one set a file",
            fix="save each split on its own, np.savez('train.npz', x=x_train, y=y_train)",
        )
    x, y = _channels_first(path, arrays[pair[0]]), arrays[pair[1]]
    if y.dtype.kind not in "iuf":
        raise BadInput(f"{path} with labels of type {y.dtype}", expected="int64", fix="number the classes from 0")
    try:
        images = torch.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
    except TypeError as error:
        raise BadInput(f"{path} with images of type {x.dtype}", expected="uint8 or float", fix="convert x") from error
    labels = torch.from_numpy(y.astype(np.float64 if y.dtype.kind == "f" else np.int64))
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return _data(images, labels, classes, _names(arrays["classes"]) if "classes" in arrays else None)


def _names(held: NDArray[Any]) -> list[str] | int:
    return int(held) if held.ndim == 0 else [str(name) for name in held]


def npz_path(path: Path | str) -> Path:
    """Return the path. Raises BadInput where it is not named .npz."""
    path = Path(path)
    if path.suffix != ".npz":
        raise BadInput(f"{path}", expected="a file name that ends in .npz", fix=f"write {path.with_suffix('.npz')}")
    return path


def save_npz(data: Data, path: Path | str) -> Path:
    """Write data as an .npz file that `load_data` reads, whole or not at all, and return the path.

    Raises BadInput where the file cannot be written or is not named .npz.
    """
    path = npz_path(path)
    x = data.x.float() if data.x.dtype == torch.bfloat16 else data.x  # numpy has no bfloat16

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, x=x.cpu().numpy(), y=data.y.cpu().numpy(), classes=np.array(data.classes, dtype=np.str_))

    return write_atomically(path, write)


# ---- by path


def _folder(path: Path, classes: Classes) -> Data:
    shards = sorted(path.glob("*.parquet"))
    return _shards(str(path), shards, classes) if shards else _image_folder(path, classes)


def _file(path: Path, classes: Classes) -> Data:
    if path.suffix == ".parquet":
        return _parquet([path], classes)
    if path.suffix == ".npz":
        return _npz(path, classes)
    pickled = path.suffix in (".pt", ".pth", ".pkl", ".pickle")
    raise BadInput(
        f"{path}, a file of type {path.suffix or '(none)'}",
        expected="Parquet, .npz, or a folder of images",
        fix="save it with isthmus.sources.save_npz" + (": pickles can run code" if pickled else ""),
    )


def _load(spec: str, classes: Classes) -> Data:
    path = Path(spec)
    if spec in NAMED or not spec:
        return _named(spec, classes)
    if path.is_dir():
        return _folder(path, classes)
    if path.exists():
        return _file(path, classes)
    if glob.has_magic(spec):
        files = [Path(found) for found in glob.glob(spec)]
        if files and all(file.suffix == ".parquet" for file in files):
            return _shards(spec, files, classes)
        raise BadInput(f"{spec!r}, which matches {len(files)} files", expected="Parquet files", fix="check the pattern")
    if path.suffix or len(path.parts) > 1:
        around = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInput(f"{spec}, which does not exist", expected="a file or folder", fix=closest(path.name, around))
    return _named(spec, classes)


def _options(spec: str) -> tuple[str, dict[str, int]]:
    """Cut `#n=500,seed=0` off a spec."""
    base, mark, text = spec.rpartition("#")
    if not mark or Path(spec).exists():
        return spec, {}
    if not re.fullmatch(r"(n|seed|skip)=\d{1,15}(,(n|seed|skip)=\d{1,15})*", text):
        raise BadInput(
            f"{text!r} at the end of {spec!r}",
            expected="n=COUNT, skip=COUNT or seed=NUMBER, with commas between",
            fix=f"write {base}#n=500,seed=0",
        )
    return base, {name: int(value) for name, value in (each.split("=") for each in text.split(","))}


def _drawn(data: Data, spec: str, n: int | None = None, skip: int = 0, seed: int = 0) -> Data:
    """Return n samples (the rest, without n) of a random order, after the first `skip`."""
    n = len(data) - skip if n is None else n
    if n < 1 or n + skip > len(data):
        raise BadInput(
            f"{spec!r}, which asks for {n} samples" + (f" after {skip}" if skip else ""),
            expected=f"1 to {len(data)} in all, as many as there are",
            fix="ask for fewer",
        )
    generator = torch.Generator().manual_seed(seed)
    return split(data, [skip, n] if skip else [n], generator)[-1]


def load_data(spec: str | Path, classes: Sequence[str] | int | None = None) -> Data:
    """Return the data that the spec names. `classes`, a count or names, replaces what the source says of them.

    A spec is a named set: "digits", "digits:train", "digits:test" (they come with scikit-learn); "cifar10:train",
    "cifar100", "mnist", "fashion_mnist", "svhn" likewise, downloaded once from the Hugging Face hub. Or a path: a
    Parquet file in the hub's layout, a folder or pattern of such files; a folder/CLASS/*.png; an .npz file of x and y.

    "#n=500,seed=0" behind it draws 500 of the samples at random; "#skip=500,seed=0" is the rest of the same draw.
    Images that Parquet holds are decoded once and kept under ISTHMUS_CACHE, else under the user's cache folder.

    Raises BadInput where the spec is unknown, the source is damaged or missing, its images differ in size, labels are
    no class indices, values lie outside [0, 1], or more samples are asked for than there are.

    >>> load_data("digits:test").x.shape
    torch.Size([500, 1, 8, 8])
    >>> few, rest = load_data("digits:test#n=50,seed=1"), load_data("digits:test#skip=50,seed=1")
    >>> len(few), len(rest)
    (50, 450)
    """
    base, options = _options(str(spec))
    data = _load(base, classes)
    return _drawn(data, str(spec), **options) if options else data
