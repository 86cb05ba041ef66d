"""Images from folders, one folder a class."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Data
from isthmus.data.sources.reading import Classes, _damaged, _optional
from isthmus.types import BadInput

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


# ---- images
def _pixels(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    """Decode one image: (1, h, w) where it is gray, else (3, h, w)."""
    image_module = _optional("PIL.Image", name)
    try:
        with image_module.open(source) as image:
            mode, gray = image.mode, image.mode in ("L", "LA", "1")
            array = np.asarray(image.convert("L" if gray else "RGB"), dtype=np.uint8)
    except Exception as error:  # each format raises errors of its own
        raise _damaged(name, error, "image") from error
    if mode.startswith(("I", "F")):
        raise BadInput(
            f"{name}, an image of mode {mode}", expected="8 bits a channel", fix="convert it first"
        )
    return array[None] if gray else array.transpose(2, 0, 1)


def _stacked(images: Iterable[NDArray[np.uint8]], name: Callable[[int], str]) -> NDArray[np.uint8]:
    """Stack images of one size, (n, c, h, w): gray where all are, else in color. `name` names the
    i-th in errors.
    """
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
        raise BadInput(
            "no images", expected="one sample or more", fix="check the path or the split"
        )
    channels = max(len(each) for each in found)
    return np.stack([np.broadcast_to(each, (channels, *each.shape[1:])) for each in found])


def _image_folder(folder: Path, classes: Classes) -> Data:
    """Return the images of folder/CLASS/*, the classes in the order of their sorted names, as
    others sort them.
    """
    names = sorted(
        each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")
    )
    files = [
        (file, label) for label, name in enumerate(names) for file in _images_in(folder / name)
    ]
    if not files:
        deeper = [
            name
            for name in names
            if any(_images_in(sub) for sub in (folder / name).iterdir() if sub.is_dir())
        ]
        held = (
            "images outside any class"
            if _images_in(folder)
            else "no image in a folder of its own class"
        )
        raise BadInput(
            f"{folder}, which holds {held}",
            expected=f"{folder}/CLASS/*.png, or Parquet files",
            fix=f"pass {folder / deeper[0]}"
            if deeper
            else "put the images of each class into a folder of its name",
        )
    images = _stacked((_pixels(file, str(file)) for file, _ in files), lambda i: str(files[i][0]))
    return Data(
        torch.from_numpy(images),
        torch.tensor([label for _, label in files]),
        names if classes is None else classes,
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in _IMAGES and not f.name.startswith(".")
    )
