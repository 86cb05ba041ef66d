"""`load_data`: data by name or path, decoded once and then cached.

Parquet and images are read by packages that not everybody needs: `pip install isthmus[data]`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from isthmus.data.dataset import Data
from isthmus.data.sources.encoded import Encoded
from isthmus.data.sources.images import read_image_folder
from isthmus.data.sources.named import NAMED, read_named
from isthmus.data.sources.npz import read_npz
from isthmus.data.sources.parquet import read_parquet, read_shards
from isthmus.data.sources.reading import Classes
from isthmus.data.splits import split_rows
from isthmus.runs.wording import absent, counted
from isthmus.types import BadInput


# ---- by path
def _folder(path: Path, classes: Classes) -> Encoded:
    shards = sorted(path.glob("*.parquet"))
    return read_shards(str(path), shards, classes) if shards else read_image_folder(path, classes)


def _file(path: Path, classes: Classes) -> Data | Encoded:
    if path.suffix.lower() == ".parquet":
        return read_parquet([path], classes)
    if path.suffix.lower() == ".npz":
        return read_npz(path, classes)
    pickled = path.suffix in (".pt", ".pth", ".pkl", ".pickle")
    raise BadInput(
        f"{path}, a file of type {path.suffix or '(none)'}",
        expected="Parquet, .npz, or a folder of images",
        fix="save it with isthmus.data.save_npz" + (": pickles can run code" if pickled else ""),
    )


def _load(spec: str, classes: Classes) -> Data | Encoded:
    path = Path(spec)
    if spec in NAMED or not spec:
        return read_named(spec, classes)
    if path.is_dir():
        return _folder(path, classes)
    if path.exists():
        return _file(path, classes)
    if glob.has_magic(spec):
        files = [Path(name) for name in glob.glob(spec)]
        if files and all(file.suffix == ".parquet" for file in files):
            return read_shards(spec, files, classes)
        raise BadInput(
            f"{spec!r}, which matches {len(files)} files",
            expected="Parquet files",
            fix="check the pattern",
        )
    if path.suffix or len(path.parts) > 1:
        raise absent(path, "a file or folder")
    return read_named(spec, classes)


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
    options = [part.split("=") for part in text.split(",")]
    names = [name for name, _ in options]
    if len(set(names)) < len(names):
        raise BadInput(
            f"{text!r} at the end of {spec!r}",
            expected="n, skip and seed once each",
            fix="remove the second one",
        )
    return base, {name: int(value) for name, value in options}


def _drawn(
    source: Data | Encoded, spec: str, n: int | None = None, skip: int = 0, seed: int = 0
) -> Data:
    """Return n samples (the rest, without n) of a random order, passing over the first `skip`."""
    total = len(source)
    asked = max(0, total - skip) if n is None else n
    if asked < 1 or asked + skip > total:
        raise BadInput(
            f"{spec!r}, which asks for {counted(asked, 'sample', 'samples')}"
            + (f" after {skip}" if skip else ""),
            expected=f"1 to {total} in all, as many as there are",
            fix=f"write {_fitting_draw(total, n, skip)}",
        )
    generator = torch.Generator().manual_seed(seed)
    return source[split_rows(total, [skip, asked] if skip else [asked], generator)[-1]]


def _fitting_draw(total: int, n: int | None, skip: int) -> str:
    """Return what to write in place of a draw that does not fit, of n samples or of the rest."""
    if skip < total:
        return f"#n={total - skip} or less"
    if n is None:
        return f"#skip={total - 1} or less"
    if 0 < n < total:
        return f"#skip={total - n} or less"
    return f"#n=1,skip={total - 1}"


def load_data(spec: str | Path, classes: Sequence[str] | int | None = None) -> Data:
    """Return the data that the spec names.

    `classes`, a count or names, replaces what the source says of them.

    A spec is a named set: "digits", "digits:train", "digits:test" (they come with scikit-learn);
    "cifar10:train", "cifar100", "mnist", "fashion_mnist", "svhn" likewise, downloaded once from the
    Hugging Face hub. Or a path: a Parquet file in the hub's layout, a folder or pattern of such
    files; a folder of images, one folder a class, however deep below it; an .npz file of x and y,
    or images and labels, with `classes` and `layout` ("nchw" or "nhwc") where they cannot be told.

    "#n=500,seed=0" draws 500 of the samples at random. "#skip=500,seed=0" passes over these 500,
    which are not the first of the file, and returns the others: two specs of one source are
    disjoint where one says n=500 and the other skip=500, with the same seed. Without a seed it
    is 0.

    Images of folders and Parquet are decoded once and kept under ISTHMUS_CACHE, else under the
    user's cache folder, until a file of theirs changes. They are mapped from there, so a set may be
    larger than memory. A draw of at most half of a set that is not kept decodes nothing else.

    Raises BadInput where the spec is unknown, the source is damaged or missing, its images differ
    in size, labels are no class indices, values lie outside [0, 1], or fewer samples are there than
    are to be drawn.

    >>> load_data("digits:test").x.shape
    torch.Size([500, 1, 8, 8])
    >>> few, rest = load_data("digits:test#n=50,seed=1"), load_data("digits:test#skip=50,seed=1")
    >>> len(few), len(rest)
    (50, 450)
    """
    base, options = _options(str(spec))
    source = _load(base, classes)
    if options:
        return _drawn(source, str(spec), **options)
    return source.data() if isinstance(source, Encoded) else source
