"""Images without labels, one file at a time: what a stream of inputs is read from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from isthmus.data.alike import in_color
from isthmus.data.sources.encoded import decoded
from isthmus.data.sources.images import IMAGE_SUFFIXES
from isthmus.data.sources.npz import images_in, opened
from isthmus.data.sources.spec import load_data
from isthmus.types import BadInput

_FILES = (*IMAGE_SUFFIXES, ".npz", ".parquet")


def image_stream(source: str, channels: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each file and its images (n, c, h, w); no two files are held at once.

    `source` is an image, an .npz file (whose labels are not read), whatever `load_data` takes, or
    a folder: all such files below it, in the order of their names. Of a folder with images in color
    `load_data` reads gray ones in color too; a stream cannot know, and does so where as many
    `channels` are wanted. Raises BadInput where a file is damaged or missing, and where there is
    none, or no image in one: nothing seen is nothing clean.
    """
    path = Path(source)
    if not path.is_dir():
        yield source, _images(path, source, channels)
        return
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _FILES]
    files = [file for file in files if file.is_file()]
    if not files:
        raise BadInput(
            f"{source}, a folder without images",
            expected=f"files named {', '.join(sorted(_FILES))}",
            fix="check the path",
        )
    for file in files:
        yield str(file), _images(file, str(file), channels)


def _images(path: Path, source: str, channels: int | None) -> Tensor:
    """Return the images of one file, one or more. Raises BadInput as `image_stream` does."""
    try:
        images = _read(path, source)
    except BadInput as error:
        raise error.within(source) from error
    if not len(images):
        raise BadInput(
            f"{source}, which holds no images", expected="one or more", fix="leave the file out"
        )
    return images if channels is None else in_color(images, channels)


def _read(path: Path, source: str) -> Tensor:
    if path.suffix.lower() in IMAGE_SUFFIXES and path.exists():
        return torch.from_numpy(decoded(path, source).copy())[None]
    if path.suffix.lower() != ".npz" or not path.exists():
        return load_data(source).x
    with opened(path) as file:
        name = next((name for name in ("x", "images") if name in file.files), None)
        images = None if name is None else images_in(path, file, name)
        if images is not None and (images.dtype == torch.uint8 or images.is_floating_point()):
            return images
        raise BadInput(
            f"{path} with the arrays {', '.join(sorted(file.files)) or '(none)'}",
            expected="x, or images, of uint8 or float",
            fix="save them with np.savez('inputs.npz', x=x)",
        )
