# SPDX-License-Identifier: Apache-2.0
"""Prunes a tiny model of each kind of graph, merges its tokens where they can merge, and exports it to every format.

``python -m benchmarks.pruned_formats`` from the root of the repository writes
``benchmarks/results/pruned_formats.json``; with names of models it measures those again and keeps the other rows. Both
steps are the verbs, with the tolerances of any other model: an export that they refuse is a row with the reason. Core
ML packages are computed op by op on this machine, engines are built and their kernels read, not run. Where one is
refused, the dense model is exported too, which tells what pruning broke from what a tiny model does not reach. A
refusal ends the script with exit code 1, unless the dense model is refused there too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.quantization_models import provenance
from benchmarks.sheet import Sheet, parser
from tests.family_matrix import CASES
from vitedge import registry
from vitedge.checkpoints.read import read
from vitedge.errors import CheckFailed
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.summary import summary
from vitedge.files.plain import from_dict
from vitedge.models.merging import MERGING
from vitedge.pruning.recipe import PruningRecipe
from vitedge.recipe import ExportRecipe
from vitedge.records import Manifest
from vitedge.verbs.export import export
from vitedge.verbs.prune import prune

RESULTS = Path(__file__).with_name("results") / "pruned_formats.json"
MODELS = (
    "vit timm",
    "pit timm",
    "mobilevit timm",
    "mobilevitv2 timm",
    "swin timm",
    "beit timm",
    "deit distilled timm",
    "pit naver distilled",
    "deit-iii facebook",
    "dinov2 facebook registers",
    "mae",
    "vit hybrid",
    "simmim vit",
)
"""One checkpoint of each kind of graph: names of `tests.family_matrix.CASES`."""
FRACTION = 0.5
MERGED = 2
"""Tokens that each block merges."""
LARGER = {"vit hybrid": (128, 128)}
"""Image sizes of models with four patches at their own: merging one of two tokens is a product of so few elements that
TensorRT-RTX computes it within a generated kernel, whose name does not tell it, and the engine is refused."""
HEADLESS = ("mobilevitv2 timm", "simmim vit")
"""Models without heads that could go: the attention of the first has none, the blocks of the other share one table of
biases with an entry a head."""
CALIBRATION = 32
DENSE = "dense"
VARIANTS = ("pruned", "merged", DENSE)
FORMATS: Mapping[str, ExportRecipe] = {
    "onnx": ExportRecipe(("onnx",)),
    "onnx, dynamic batch": ExportRecipe(("onnx",), batch="dynamic"),
    "coreml": ExportRecipe(("coreml",)),
    "tensorrt, fp16": ExportRecipe(("tensorrt",), precision="fp16", profiles=("rtx",)),
}
"""Title to what is exported."""


@dataclass(frozen=True)
class Row:
    """One export of one model."""

    model: str
    family: str
    variant: str
    """``pruned``, ``merged`` (pruned besides) or ``dense``."""
    format: str
    asked: str
    """Options of ``vitedge prune``."""
    macs: float
    """Multiply-accumulates that were left, as a fraction."""
    refused: str = ""
    """The reason why there is no bundle; empty where there is one."""
    runtime: str = ""
    """What the outputs were computed with, of the engine's ONNX file too."""
    relative_error: float = 0.0
    """Against the same variant in PyTorch, as the sizes below: the largest or the least of all outputs."""
    centred_sqnr_db: float = 0.0
    agreement: float | None = None
    """Share of images with the same class; None where the model has no classes."""
    engine: str = ""
    """What the kernels of the engine compute."""
    seconds: float = 0.0
    """Wall time of the export."""


@dataclass(frozen=True)
class _Subject:
    """One variant of one model, as a file."""

    path: str
    given: Mapping[str, Any]
    row: Row


def measure(model: str, folder: Path) -> Iterator[Row]:
    """Yields the rows of one model."""
    case = CASES[model]
    source = case.write(case.source(), folder / "made")
    given = dict(case.given)
    family = read(source, overrides=given).spec.family
    refused: set[str] = set()
    for variant in VARIANTS[: 2 if family in MERGING else 1]:
        merge = {"merge": MERGED} if variant == "merged" else {}
        row = Row(model, family, variant, "", "", 1.0)
        subject = _pruned(source, given, folder / f"{variant}.safetensors", row, **merge)
        for title in FORMATS:
            found = _exported(subject, title, folder / "bundle")
            refused |= {title} if found.refused else set()
            yield found
    for title in refused:
        subject = _Subject(source, given, Row(model, family, DENSE, "", "", 1.0))
        yield _exported(subject, title, folder / "bundle")


def _pruned(source: str, given: Mapping[str, Any], path: Path, row: Row, **settings: Any) -> _Subject:
    """Prunes heads and units: units alone where the model has no heads that could go."""
    asked = {"heads": FRACTION, "mlp": FRACTION, **settings}
    if row.model in HEADLESS:
        del asked["heads"]
    asked["image_size"] = LARGER.get(row.model)
    recipe = PruningRecipe(
        images="synthetic", image_count=CALIBRATION, overrides=given, accept_assumptions=True, **asked
    )
    gmacs = prune(source, path, recipe).record.gmacs
    options = " ".join(f"--{name} {value}" for name, value in asked.items() if name != "image_size")
    return _Subject(str(path), {}, replace(row, asked=options, macs=round(gmacs[1] / gmacs[0], 3)))


def _exported(subject: _Subject, title: str, bundle: Path) -> Row:
    size = LARGER.get(subject.row.model)
    recipe = replace(FORMATS[title], image_size=size, overrides=subject.given, accept_assumptions=True)
    start = time.perf_counter()
    found: dict[str, Any]
    try:
        found = _found(export(subject.path, bundle, recipe, force=True).manifest)
    except CheckFailed as refused:
        found = {"refused": str(refused).replace(subject.path, Path(subject.path).name)}
    return replace(subject.row, format=title, seconds=round(time.perf_counter() - start, 1), **found)


def _found(manifest: Manifest) -> dict[str, Any]:
    """Returns the figures of a bundle, whose reports all passed: the export would have failed else."""
    (report,) = manifest.parity
    agreements = [output.agreement for output in report.outputs if output.agreement is not None]
    engines = [from_dict(EngineRecord, one.engine) for one in manifest.artifacts if one.engine is not None]
    return {
        "runtime": report.runtime,
        "relative_error": float(f"{max(output.relative_error for output in report.outputs):.3g}"),
        "centred_sqnr_db": round(min(output.centred_sqnr_db for output in report.outputs), 1),
        "agreement": min(agreements, default=None),
        "engine": "; ".join(f"{', '.join(engine.targets)}: {summary(engine)}" for engine in engines),
    }


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the exports that were refused and that the dense model was not refused, each as a sentence."""
    dense = {(row.model, row.format) for row in rows if row.variant == DENSE and row.refused}
    return [
        f"{row.model}, {row.variant}, {row.format}: {row.refused}"
        for row in rows
        if row.refused and (row.model, row.format) not in dense
    ]


def main() -> None:
    asked = parser(__doc__, "MODEL", MODELS, RESULTS).parse_args()
    told = provenance(
        weights="seeded, tiny",
        calibration_images=CALIBRATION,
        threads=torch.get_num_threads(),
        builder=registry.versions(("tensorrt-rtx-cu12",)),
    )
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told})
    for model in asked.chosen:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(model, Path(folder)):
                result = row.refused or f"{row.centred_sqnr_db} dB {row.engine}"
                print(model, row.variant, row.format, row.asked, result, row.seconds, sep=" | ", flush=True)
                sheet.put(row)
    sheet.finish()


def _place(row: Row) -> tuple[int, ...]:
    return MODELS.index(row.model), VARIANTS.index(row.variant), list(FORMATS).index(row.format)


if __name__ == "__main__":
    main()
