"""Images from folders, one folder a class."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Data
from isthmus.data.pixels import pixels_of
from isthmus.data.sources.reading import Classes, damaged, optional_package
from isthmus.runs.wording import abbreviated
from isthmus.types import BadInput

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}

# What archives, file servers and tools leave behind: never a class. Hidden folders neither.
_NO_CLASS = {
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}

_SPLIT = re.compile("train(ing)?|test(ing)?|val(id(ation)?)?|dev", re.IGNORECASE)


def decoded(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    """Decode one image: (1, h, w) where it is gray, else (3, h, w)."""
    image_module = optional_package("PIL.Image", name)
    try:
        with image_module.open(source) as image:
            return pixels_of(image, name)
    except BadInput:
        raise
    except Exception as error:  # each format raises errors of its own
        raise damaged(name, error, "image") from error


def stacked(images: Iterable[NDArray[np.uint8]], name: Callable[[int], str]) -> NDArray[np.uint8]:
    """Stack images of one size, (n, c, h, w): gray where all are, else in color.

    `name` names the i-th image in errors.
    """
    stack: list[NDArray[np.uint8]] = []
    for i, image in enumerate(images):
        if stack and image.shape[1:] != stack[0].shape[1:]:
            raise BadInput(
                f"{name(i)} of {image.shape[1]}x{image.shape[2]} pixels",
                expected=f"{stack[0].shape[1]}x{stack[0].shape[2]}, as the first",
                fix="resize all images to one size",
            )
        stack.append(image)
    if not stack:
        raise BadInput(
            "no images", expected="one sample or more", fix="check the path or the split"
        )
    channels = max(len(image) for image in stack)
    return np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in stack])


def read_image_folder(folder: Path, classes: Classes) -> Data:
    """Return the images of folder/CLASS, however deep below it they lie.

    Classes are numbered in the order of their sorted names, one without images among them.
    """
    names = [sub.name for sub in _class_folders(folder)]
    images = {name: _images_below(folder / name) for name in names}
    _check_layout(folder, names, images)
    files = [(file, label) for label, name in enumerate(names) for file in images[name]]
    stack = stacked((decoded(file, str(file)) for file, _ in files), lambda i: str(files[i][0]))
    labels = torch.tensor([label for _, label in files])
    return Data(torch.from_numpy(stack), labels, names if classes is None else classes)


def _check_layout(folder: Path, names: list[str], images: dict[str, list[Path]]) -> None:
    """Raise BadInput where a folder holds no class, or splits in place of classes."""
    expected = f"{folder}/CLASS/*.png, or Parquet files"
    splits = [name for name in names if images[name] and _SPLIT.fullmatch(name)]
    if splits and all(_SPLIT.fullmatch(name) for name in names if images[name]):
        raise BadInput(
            f"{folder}, whose folders are splits and not classes ({abbreviated(splits)})",
            expected=expected,
            fix=f"pass {folder / splits[0]}",
        )
    shared = _shared_subfolders(folder, [name for name in names if images[name]])
    if len(shared) > 1:
        raise BadInput(
            f"{folder}, each of whose folders holds the folders {abbreviated(shared)}",
            expected=expected,
            fix=f"pass {folder / names[0]} where these are the classes; else put each class's "
            "images into one folder",
        )
    if not any(images.values()):
        outside = _images_in(folder)
        raise BadInput(
            f"{folder}, which holds {'images outside any class' if outside else _held(folder)}",
            expected=expected,
            fix=_way_out(folder),
        )


def _shared_subfolders(folder: Path, names: list[str]) -> list[str]:
    """Return the folders that stand in each of several classes, none of which has images itself."""
    if len(names) < 2 or any(_images_in(folder / name) for name in names):
        return []
    subfolders = [{sub.name for sub in _class_folders(folder / name)} for name in names]
    return sorted(set.intersection(*subfolders))


def _held(folder: Path) -> str:
    partitions = [sub.name for sub in _class_folders(folder) if "=" in sub.name]
    if partitions:
        return f"partitions ({abbreviated(partitions)}) whose Parquet files lack the column"
    return "no image in a folder of its own class"


def _way_out(folder: Path) -> str:
    """Return what to do about a folder without images: name the data that lie deeper in it."""
    deeper = sorted({file.parent for file in folder.rglob("*.parquet")})
    if any("=" in part.name for part in deeper):
        return "write one Parquet file with image and label as columns"
    if deeper:
        return f"pass {deeper[0]}"
    return "put the images of each class into a folder of its name"


def _class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may be classes, in the order of their names."""
    return sorted(
        sub
        for sub in folder.iterdir()
        if sub.is_dir() and not sub.name.startswith(".") and sub.name not in _NO_CLASS
    )


def _images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and in the folders below it, those above first."""
    deeper = [file for sub in _class_folders(folder) for file in _images_below(sub)]
    return [*_images_in(folder), *deeper]


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
