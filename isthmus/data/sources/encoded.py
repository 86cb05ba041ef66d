"""Labeled images as they lie in files: decoded once and kept, or only those that are drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isthmus.data.dataset import Data
from isthmus.data.mapped import gathered
from isthmus.data.pixels import is_gray, pixels_of
from isthmus.data.sources.kept import file_of, kept, made_and_kept
from isthmus.data.sources.reading import Classes, damaged, optional_package, with_classes
from isthmus.runs.progress import bar
from isthmus.types import BadInput

_MANY = 5000  # images; a CPU decodes about 500 of 224x224 a second

Source = Path | io.BytesIO
"""A file of one image, or its content."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Labeled images in files. `labels` are data without their images (`labels_alone`).

    `read` yields a name and the source of each of the given rows, which ascend. `origin` names the
    set, and no other; its content has changed where one of its files has.
    """

    labels: Data
    origin: str
    files: Sequence[Path]
    read: Callable[[Tensor], Iterator[tuple[str, Source]]]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _file(self) -> Path | None:
        return file_of(self.origin, self.files)

    def data(self) -> Data:
        """Return all samples, mapped from the file that keeps them decoded. Raises BadInput where
        one is damaged, or of another size than the first.
        """
        x = kept(self._file, len(self))
        if x is None:
            everything = torch.arange(len(self))
            x = made_and_kept(self._file, len(self), lambda: self._decoded(everything))
        return Data(x, self.labels.y, self.labels.classes)

    def __getitem__(self, rows: Tensor) -> Data:
        """Return the samples of the given rows.

        They alone are decoded, and not kept, where they are half of the set or less and the set is
        not kept. Raises BadInput as `data` does.
        """
        if 2 * len(rows) > len(self) or kept(self._file, len(self)) is not None:
            return self.data()[rows]
        order = rows.argsort()
        x = gathered(self._decoded(rows[order]))
        return Data(x, self.labels.y[rows[order]], self.labels.classes)[order.argsort()]

    def _decoded(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield images (1, c, h, w) of one size: gray where the whole set is, else in color."""
        channels = self._channels()
        size: tuple[int, ...] = ()
        count = 0
        for name, source in self._told(rows):
            image = decoded(source, name)
            size = size or image.shape[1:]
            if image.shape[1:] != size:
                raise BadInput(
                    f"{name} of {image.shape[1]}x{image.shape[2]} pixels",
                    expected=f"{size[0]}x{size[1]}, as the first",
                    fix="resize all images to one size",
                )
            whole = np.broadcast_to(image, (1, channels, *size))
            count += 1
            yield torch.from_numpy(np.array(whole, order="C"))
        if count != len(rows):
            raise BadInput(
                f"{self.origin}, which had {len(rows)} images and then {count}",
                expected="files that stay as they are while they are read",
                fix="start again when they are complete",
            )

    def _told(self, rows: Tensor) -> Iterator[tuple[str, Source]]:
        """Yield what `read` does, and show how far it is where that takes more than a moment."""
        if len(rows) < _MANY:
            yield from self.read(rows)
            return
        with bar("decoding images", len(rows)) as advance:
            for each in self.read(rows):
                yield each
                advance("")

    def _channels(self) -> int:
        """Return 1 where all images of the set are gray, else 3; looks no farther than the first
        one in color.
        """
        for name, source in self.read(torch.arange(len(self))):
            with _opened(source, name) as image:
                if not is_gray(image):
                    return 3
        return 1


def labels_alone(y: Tensor, asked: Classes, said: Classes) -> Data:
    """Return data with the labels and an empty pixel for each image, which takes no memory.

    The classes are those that were asked for, else those that the source says, else as many as the
    labels need. Raises BadInput where labels and classes do not fit each other.
    """
    return with_classes(
        torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(len(y), -1, -1, -1), y, asked, said
    )


def decoded(source: Source, name: str) -> NDArray[np.uint8]:
    """Decode one image: (1, h, w) where it is gray, else (3, h, w)."""
    with _opened(source, name) as image:
        return pixels_of(image, name)


@contextmanager
def _opened(source: Source, name: str) -> Iterator[Any]:
    """Run a block with an image that is not decoded yet. Raises BadInput where it is damaged."""
    image_module = optional_package("PIL.Image", name)
    try:
        with image_module.open(source) as image:
            yield image
    except BadInput:
        raise
    except image_module.UnidentifiedImageError as error:  # which says where in memory the image is
        raise damaged(name, "in no format that is known", "image") from error
    except Exception as error:  # each format raises errors of its own
        raise damaged(name, error, "image") from error
