"""Images from folders, one folder a class."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from isthmus.data.sources.encoded import Encoded, labels_alone
from isthmus.data.sources.reading import Classes
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


def read_image_folder(folder: Path, classes: Classes) -> Encoded:
    """Return the images of folder/CLASS, however deep below it they lie.

    Classes are numbered in the order of their sorted names, one without images among them. Raises
    BadInput where the folders are splits or hold no image, and where a link leads to one of them
    again.
    """
    names = [sub.name for sub in _class_folders(folder)]
    visited = {folder.resolve(): folder}
    images = {name: _images_below(folder / name, visited) for name in names}
    _check_layout(folder, names, images)
    files = [file for name in names for file in images[name]]
    labels = torch.tensor([label for label, name in enumerate(names) for _ in images[name]])
    return Encoded(
        labels_alone(labels, classes, names),
        origin=str(folder.resolve()),
        files=files,
        read=lambda rows: ((str(files[row]), files[row]) for row in rows.tolist()),
    )


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


def _images_below(folder: Path, visited: dict[Path, Path]) -> list[Path]:
    """Return the images in a folder and in the folders below it, those above first.

    `visited` are the folders that were read before, by where they really are; this one joins them.
    Raises BadInput where a folder comes twice, or leads out to what holds the first one; it names
    the one that is a link, since the images are lost with the other.
    """
    place = folder.resolve()
    top = next(iter(visited))
    if place in visited or top.is_relative_to(place):
        earlier = visited.get(place, place)
        link, other = (folder, earlier) if _is_link(folder) else (earlier, folder)
        raise BadInput(
            f"{link}, a link that leads to {other}",
            expected="every folder of images once",
            fix="remove the link",
        )
    visited[place] = folder
    deeper = [file for sub in _class_folders(folder) for file in _images_below(sub, visited)]
    return [*_images_in(folder), *deeper]


def _is_link(folder: Path) -> bool:
    """Return whether a folder lies elsewhere than its name says, as a junction of Windows does."""
    return folder.resolve() != folder.parent.resolve() / folder.name


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
