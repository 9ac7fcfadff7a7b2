# SPDX-License-Identifier: Apache-2.0
"""What the user asked for, as one frozen record that goes into the manifest and can be read back from TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.records import Bar
from vitedge.serialization import from_dict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMATS = ("onnx", "coreml", "tensorrt")
PRECISIONS = ("fp32", "fp16")
INPUTS = ("float32", "uint8")
IMAGE_COUNT = 8
"""Images that parity is measured on, unless told otherwise."""


@dataclass(frozen=True)
class ExportRecipe:
    """Everything that decides what an export writes."""

    formats: tuple[str, ...] = ("onnx",)
    profile: str | None = None
    """Name of an entry of ``vitedge profiles``; it fills in what is None here."""
    precision: str = "fp32"
    image_size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the checkpoint's own."""
    batch: int | str = 1
    """A fixed batch size, or ``dynamic``."""
    opset: int | None = None
    """ONNX operator set; None is 18, or the profile's."""
    coreml_target: str | None = None
    """``iOS16`` to the newest that coremltools knows; None is iOS17, or the profile's."""
    input: str = "float32"
    """``uint8`` moves scaling and normalization into the graph: the input is then the image, NCHW, 0 to 255, RGB."""
    features: bool = False
    """Tokens and pooled features instead of logits."""
    images: str = "synthetic"
    """A folder of images for parity, or ``synthetic``."""
    image_count: int = IMAGE_COUNT
    seed: int = 0
    weights: str | None = None
    """Which set of weights, where the file holds several."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelSpec or Preprocessing that the user gave by hand."""
    bar: Bar | None = None
    """What parity has to reach; None takes the default of the precision and the family."""

    def __post_init__(self) -> None:
        _check_choice("format", self.formats, FORMATS)
        _check_choice("precision", (self.precision,), PRECISIONS)
        _check_choice("input", (self.input,), INPUTS)
        if not self.formats:
            raise BadRecipe(f"An export needs at least one --format: {', '.join(FORMATS)}.")
        if self.batch != "dynamic" and not (isinstance(self.batch, int) and self.batch >= 1):
            raise BadRecipe(f"--batch is a number from 1 up, or dynamic; got {self.batch!r}.")
        if self.seed < 0:
            raise BadRecipe(f"--seed is a number from 0 up; got {self.seed}.")
        if self.image_count < 2:
            raise BadRecipe("Parity needs at least 2 images: with one, nothing shows that the output depends on it.")


def read_entries(path: Path) -> dict[str, Any]:
    """Reads the entries of a recipe from a TOML file whose keys are fields of `ExportRecipe`.

    Raises:
        BadRecipe: the file is missing, is not TOML, or has an entry that does not exist.
    """
    try:
        entries: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"{path} cannot be read as a recipe: {error}.") from error
    from_dict(ExportRecipe, entries)
    return entries


def _check_choice(what: str, values: tuple[str, ...], choices: tuple[str, ...]) -> None:
    for value in values:
        if value not in choices:
            raise BadRecipe(f"There is no {what} {value!r}; choose from {', '.join(choices)}.")
