# SPDX-License-Identifier: Apache-2.0
"""Images in NumPy's files, read one at a time: neither a large file nor a false header fills the memory."""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import BadImages
from vitedge.files.npy import read_header
from vitedge.images.preprocess import MAX_PIXELS, takes_pictures
from vitedge.images.synthetic import Uniform

MAX_IMAGES = 10_000_000
"""Most images of a file: drawing from more would need a list that is itself large."""
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""Exceptions that NumPy and zipfile raise for a damaged, encrypted or foreign file."""


class ArrayFile:
    """An ``.npy``, or the images (and labels) of an ``.npz``; closed, it opens again for the next image.

    Args:
        path: the file; uint8 images as ``(images, height, width, channels)``, ``(images, channels, height, width)`` or
            ``(images, height, width)``, or one image as ``(height, width, channels)``.
        channels: those of the model: 1 and 3 take images of 1, 3 or 4 channels, any other number that number alone.

    Raises:
        BadImages: no such array, another type or shape, or a file that is cut short.
    """

    def __init__(self, path: Path, channels: int = 3) -> None:
        self._path = path
        self._accepted = (1, 3, 4) if takes_pictures(channels) else (channels,)
        self._archive: zipfile.ZipFile | None = None
        self._file: IO[bytes] | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._read_header()
        except DAMAGE as error:
            self.close()
            raise BadImages(f"{self._path} cannot be read as an array of images: {error}.") from error
        except BadImages:
            self.close()
            raise

    def _read_header(self) -> None:
        if not zipfile.is_zipfile(self._path):
            self._file, size = self._path.open("rb"), self._path.stat().st_size
        else:
            self._archive = zipfile.ZipFile(self._path)
            member = self._member()
            self._file, size = self._archive.open(member), self._archive.getinfo(member).file_size
        header = read_header(self._file)
        self._shape, self._start, dtype = header.shape, header.start, header.dtype
        if header.fortran_order and len(self._shape) > 1:
            raise ValueError("it is in Fortran order; save np.ascontiguousarray of it")
        if dtype != np.uint8 or not (3 <= len(self._shape) <= 4) or min(self._shape) < 1:
            wanted = 3 if 3 in self._accepted else self._accepted[0]
            raise BadImages(
                f"{self._path} holds {dtype} of shape {self._shape}; images are uint8, (images, height, width, "
                f"{wanted})."
            )
        if len(self._shape) == 3 and self._shape[2] > 1 and self._shape[2] in self._accepted:
            self._shape = (1, *self._shape)  # one image; no grey image is 3 or 4 pixels wide
        self._channels_first = len(self._shape) == 4 and self._shape[3] not in self._accepted
        channels = self._shape[1 if self._channels_first else 3] if len(self._shape) == 4 else 1
        if channels not in self._accepted:
            words = "1, 3 or 4" if len(self._accepted) > 1 else f"{self._accepted[0]}"
            raise BadImages(
                f"{self._path} holds arrays of shape {header.shape}; images for this model have {words} channels."
            )
        if len(self) > MAX_IMAGES or prod(self._shape[1:]) > MAX_PIXELS * channels:
            raise BadImages(f"{self._path} says that it holds arrays of shape {self._shape}, more than can be images.")
        if size != header.file_size:
            raise BadImages(f"{self._path} is cut short or damaged: its length does not fit the shape {self._shape}.")

    def _member(self) -> str:
        """Returns the name of the images in the archive."""
        names = [name.removesuffix(".npy") for name in self._names() if name.endswith(".npy")]
        others = [name for name in names if name != "labels"]
        if "images" not in names and len(others) != 1:
            held = ", ".join(names) or "no arrays"
            raise BadImages(f"{self._path} holds {held}; name the array of images 'images'.")
        return ("images" if "images" in names else others[0]) + ".npy"

    def _names(self) -> list[str]:
        return self._archive.namelist() if self._archive else []

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Reads an image, ``(height, width)`` or ``(height, width, channels)``."""
        shape = self._shape[1:]
        image = np.frombuffer(self.content(index), np.uint8).reshape(shape)
        return image.transpose(1, 2, 0) if self._channels_first else image

    def content(self, index: int) -> bytes:
        """Returns the bytes of an image as they lie in the file."""
        if self._file is None:
            self._open()
        size, file = prod(self._shape[1:]), self._file
        if file is None or not 0 <= index < len(self):
            raise BadImages(f"{self._path} holds no image {index} any more.")
        file.seek(self._start + index * size)
        return file.read(size)

    def drawn(self, count: int, seed: int) -> list[int]:
        """Draws the indices of ``count`` different images, or all, in rising order."""
        places = np.argsort(Uniform(seed).draw(len(self)), kind="stable")[:count]
        return sorted(int(place) for place in places)

    def labels(self) -> NDArray[Any] | None:
        """Returns the class of every image, or None where the file holds no labels.

        Raises:
            BadImages: labels that are no whole numbers, or not one per image.
        """
        if self._file is None:
            self._open()
        if self._archive is None or "labels.npy" not in self._names():
            return None
        try:
            with self._archive.open("labels.npy") as file:
                header = read_header(file)
                if header.shape != (len(self),) or header.dtype.kind not in "iu":
                    raise BadImages(
                        f"The labels of {self._path} are {header.dtype} {header.shape}; they have to be one number per "
                        "image."
                    )
                if self._archive.getinfo("labels.npy").file_size != header.file_size:
                    raise ValueError("they are cut short")
                return np.frombuffer(file.read(), header.dtype)
        except DAMAGE as error:
            raise BadImages(f"The labels of {self._path} cannot be read: {error}.") from error

    def close(self) -> None:
        """Closes the file."""
        for file in (self._file, self._archive):
            if file is not None:
                file.close()
        self._file = self._archive = None

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
