# SPDX-License-Identifier: Apache-2.0
"""The files that `benchmarks.runtime_versions` runs in old and new releases: models, and the cases of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

import vitedge
from benchmarks.quantization_models import settle
from tests.seeding import seeded
from vitedge.checkpoints.read import read
from vitedge.demo.assets import IMAGES, MODELS
from vitedge.export import to_onnx
from vitedge.export.float16.float32_modules import HalfPrecision
from vitedge.export.onnx.oldest_runtimes import EXPANDED, PACKED
from vitedge.export.onnx.passes.opset import NEWEST_OPSET, OLDEST_OPSET
from vitedge.images.image_set import ImageSet, load
from vitedge.images.preprocess import normalize
from vitedge.models.reference import Reference, load_reference
from vitedge.parity.metrics import default_tolerance
from vitedge.parity.simulation import simulate
from vitedge.program.capture import capture
from vitedge.program.program import Program
from vitedge.program.unrounded import without_rounding
from vitedge.quantization.file.model import read_model
from vitedge.recipe import SCHEMES, ExportRecipe, FloatType, Precision, QuantizationRecipe, ResolvedRecipe

COUNT = 16
"""Images that each file is run on."""
CALIBRATION = 64
BUDGET_DB = 30.0
"""Of ``mixed``."""
OPSETS = tuple(range(OLDEST_OPSET, NEWEST_OPSET + 1))
REVISED = tuple(opset for opset in OPSETS if opset not in (14, 15, 18, 22))
"""Without those that define no operator of these graphs anew, and the default."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One way to write a model; what is not said is vitedge's default for processors."""

    precision: str
    rest: str = "fp32"
    """Type of what is not quantized."""
    opset: int | None = None
    weights: str = PACKED
    """`PACKED` or `EXPANDED`."""
    batch: int | str = 1
    input: str = "float32"

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the precision and the form of weights is said."""
        return (self.rest, self.opset, self.batch, self.input) == ("fp32", None, 1, "float32")

    @property
    def name(self) -> str:
        """Returns what it is called in file names."""
        parts = (
            self.precision,
            "" if self.rest == "fp32" else f"rest-{self.rest}",
            "" if self.opset is None else f"opset-{self.opset}",
            "" if self.weights == PACKED else self.weights,
            "" if self.batch == 1 else f"batch-{self.batch}",
            "" if self.input == "float32" else self.input,
        )
        return "-".join(filter(None, parts))


FLOAT_AND_INT8 = ("fp32", "fp16", "int8")
WEIGHTS_ALONE = ("w8", "w8a16", "w4")
"""Schemes with products of floats and 8-bit weights; `w4` has some where a weight does not divide into blocks."""
PLAIN = (*(Case(str(precision)) for precision in Precision), *(Case(one, weights=EXPANDED) for one in WEIGHTS_ALONE))
FURTHER = (
    *(Case(str(scheme), rest="fp16") for scheme in SCHEMES if scheme is not Precision.INT8_DYNAMIC),
    *(Case(one, weights=EXPANDED, rest="fp16") for one in WEIGHTS_ALONE),
    *(Case(one, batch="dynamic") for one in FLOAT_AND_INT8),
    *(Case(one, input="uint8") for one in FLOAT_AND_INT8),
)
OF_OPSETS = (
    *(Case("fp32", opset=opset) for opset in OPSETS),
    *(Case(one, opset=opset) for one in ("fp16", "int8") for opset in REVISED),
)
CASES = (*PLAIN, *FURTHER, *OF_OPSETS)
_FEWER = (
    *PLAIN,
    *(case for case in FURTHER if case.rest == "fp32"),
    *(case for case in OF_OPSETS if case.opset in (13, 17, 19, 21)),
)
_OF = {"ViT": ("vit", CASES), "PiT": ("pit", PLAIN), "MobileViT": ("mobilevit", _FEWER)}
"""Models of the demo: their family, and the cases that they are written in."""


@dataclass
class Subject:
    """A model, its images, and which of the cases it is written in."""

    title: str
    family: str
    checkpoint: Callable[[Path], Path]
    """Writes the checkpoint into a folder, where it is no file yet."""
    overrides: dict[str, Any] = field(default_factory=dict)
    images: str = "synthetic"
    cases: tuple[Case, ...] = CASES
    folder: Path = Path()

    def has(self, case: Case) -> bool:
        """Returns whether it is written in a case."""
        return case in self.cases

    def write(self, case: Case, path: Path) -> Array | None:
        """Writes one file, with its images and the reference's outputs beside it.

        Returns:
            What the quantized program computes in PyTorch; None where nothing is quantized.
        """
        self.folder = path.parent
        np.save(self.folder / f"images-{case.input}.npy", self._feed(case))
        np.save(self.folder / "expected.npy", self.expected(case))
        recipe = self._recipe(case)
        program = self._program(case)
        kept: tuple[str, ...] = ()
        if recipe.is_half:
            half = HalfPrecision(without_rounding(program), self._loaded.pixels, {"logits": self.expected(case)})
            kept = half.float32_modules(default_tolerance("fp16", self.family).centred_sqnr_db).modules
        to_onnx.lower(program, recipe, path, kept)
        return simulate(program, self._loaded.pixels)["logits"] if case.precision in SCHEMES else None

    def expected(self, case: Case) -> Array:
        """Returns the logits of the reference."""
        del case
        return self._expected

    @cached_property
    def _expected(self) -> Array:
        return self._reference.outputs(self._loaded.pixels, features=False)["logits"]

    @cached_property
    def _source(self) -> Path:
        return self.checkpoint(self.folder)

    @cached_property
    def _reference(self) -> Reference:
        return load_reference(read(str(self._source), overrides=self.overrides))

    @cached_property
    def _loaded(self) -> ImageSet:
        return load(self.images, self._reference.spec, COUNT, 1)

    def _feed(self, case: Case) -> Array:
        pixels = self._loaded.pixels
        return pixels if case.input == "uint8" else normalize(pixels, self._reference.spec.preprocessing)

    def _recipe(self, case: Case) -> ResolvedRecipe:
        return ResolvedRecipe(
            formats=("onnx",),
            precision=Precision(case.precision),
            rest=FloatType(case.rest) if case.precision in SCHEMES else None,
            opset=case.opset,
            batch=case.batch,
            input=case.input,  # type: ignore[arg-type]
            packed_weights=case.weights == PACKED,
        )

    def _program(self, case: Case) -> Program:
        reference = self._reference
        if case.precision not in SCHEMES:
            module = reference.deployed(uint8=case.input == "uint8", features=False)
            return capture(module, reference.spec, reference.blocks, batch=case.batch, dtype=case.input)
        path = self.folder / f"{case.precision}-{case.batch}-{case.input}.pt2"
        if not path.exists():
            budget = BUDGET_DB if case.precision == "mixed" else None
            recipe = QuantizationRecipe(
                Precision(case.precision), images=self.images, image_count=CALIBRATION, min_sqnr=budget
            )
            asked = ExportRecipe(
                quantization=recipe,
                overrides=self.overrides,
                batch=case.batch,
                input=case.input,  # type: ignore[arg-type]
            )
            vitedge.quantize(str(self._source), path, asked)
        return read_model(path).program


def _seeded(build: Callable[[], nn.Module]) -> Callable[[Path], Path]:
    """Returns what writes the checkpoint of a module with seeded weights."""

    def write(folder: Path) -> Path:
        path, module = folder / "seeded.pth", seeded(build())
        settle(module, edge=64)
        torch.save({name: tensor.clone() for name, tensor in module.state_dict().items()}, path)
        return path

    return write


def _swin() -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        patch_size=4,
        window_size=4,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        num_classes=10,
    )


SUBJECTS: tuple[Subject, ...] = (
    *(
        Subject(
            model.name,
            _OF[model.name][0],
            lambda _folder, path=model.path: path,  # type: ignore[misc]
            dict(model.overrides),
            str(IMAGES),
            _OF[model.name][1],
        )
        for model in MODELS
    ),
    Subject("Swin", "swin", _seeded(_swin), {"image_size": (64, 64)}, cases=_FEWER),
)
