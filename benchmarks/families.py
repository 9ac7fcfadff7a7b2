# SPDX-License-Identifier: Apache-2.0
"""Parity of full-size models of every family, in both precisions, at their own and at another image size.

``python -m benchmarks.families`` from the root of the repository, in an environment with the ``dev`` extra. The weights
are seeded, so that nothing is downloaded; no tolerance is set during the export, so that a miss is kept, not refused.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.quantization_models import UNCHECKED
from tests.family_map_files import settled
from tests.seeding import seeded
from vitedge.checkpoints.read import read
from vitedge.devices import machine
from vitedge.images.image_set import load
from vitedge.models.reference import load_reference
from vitedge.parity.metrics import compare, default_tolerance, exceeded
from vitedge.recipe import ExportRecipe
from vitedge.verbs.export import export
from vitedge.verbs.inspect import inspect

RESULTS = Path(__file__).with_name("results") / "families.json"
SEED = 0
IMAGES = 8
PRECISIONS = ("fp32", "fp16")
DECODER = {"mask_token": (1, 1, 512), "decoder_embed.weight": (512, 768), "decoder_pred.weight": (768, 512)}
State = dict[str, Tensor]


@dataclass(frozen=True)
class Model:
    """A published architecture: its name in timm, and another image size than its own."""

    name: str
    other: int
    settings: tuple[tuple[str, Any], ...] = ()
    wrap: Callable[[State], Any] = dict
    """The wrapper of the weights in the file."""


@dataclass(frozen=True)
class Row:
    """One export."""

    model: str
    variant: str
    parameters: int
    precision: str
    image_size: int
    output: str
    relative_error: float
    centred_sqnr_db: float
    agreement: float | None
    megabytes: float
    seconds: float
    rounded_weights_db: float | None
    """Centred SQNR of PyTorch in float32 with the weights rounded to half precision: what no fp16 file can exceed by
    much, and what tells a sensitive model from a bad lowering."""
    missed: str
    """The default tolerance that was exceeded and by how much, or empty."""


def with_decoder(state: State) -> Any:
    return {"model": {**state, **{name: torch.zeros(shape) for name, shape in DECODER.items()}}}


def of_teacher(state: State) -> Any:
    backbone = {f"backbone.{name}": tensor for name, tensor in state.items()}
    return {"teacher": {**backbone, "head.mlp.0.weight": torch.zeros(64, 384)}}


HEADLESS = (("num_classes", 0),)
MODELS = (
    Model("vit_small_patch16_224", 256),
    Model("vit_tiny_r_s16_p8_224", 256),
    Model("deit_small_distilled_patch16_224", 192),
    Model("deit3_small_patch16_224", 288),
    Model("pit_s_distilled_224", 192),
    Model("mobilevit_xs", 192),
    Model("mobilevitv2_100", 192),
    Model("swin_tiny_patch4_window7_224", 256),
    Model("beit_base_patch16_224", 192),
    Model("vit_base_patch16_224", 256, HEADLESS, with_decoder),
    Model("vit_small_patch8_224", 192, HEADLESS, of_teacher),
    Model("vit_small_patch14_reg4_dinov2", 224, HEADLESS),
)


def write(model: Model, path: Path) -> None:
    module = seeded(timm.create_model(model.name, **dict(model.settings)), SEED)
    if model.name.startswith("mobilevit"):
        settled(module, 256)
    torch.save(model.wrap({name: tensor.clone() for name, tensor in module.state_dict().items()}), path)


def rounded_weights(path: Path, size: int) -> dict[str, float]:
    """Returns the centred SQNR in dB of each output when only the weights are rounded to half precision."""
    checkpoint = read(str(path))
    reference = load_reference(checkpoint, (size, size))
    pixels = load("synthetic", reference.spec, IMAGES).pixels
    features = reference.spec.classes == 0
    expected = reference.outputs(pixels, features=features)
    with torch.no_grad():
        for weight in reference.module.parameters():
            weight.copy_(weight.half().float())
    found = reference.outputs(pixels, features=features)
    return {output.output: round(output.centred_sqnr_db, 1) for output in compare(expected, found)}


def rows(model: Model, folder: Path) -> Iterator[Row]:
    path = folder / f"{model.name}.pth"
    write(model, path)
    found = inspect(str(path))
    for size in (found.spec.image_size[0], model.other):
        for precision in PRECISIONS:
            recipe = ExportRecipe(precision=precision, image_size=(size, size), image_count=IMAGES, tolerance=UNCHECKED)
            start = time.perf_counter()
            result = export(str(path), folder / "bundle", recipe, force=True)
            seconds = time.perf_counter() - start
            (artifact,), (report,) = result.manifest.artifacts, result.manifest.parity
            tolerance = default_tolerance(precision, found.spec.family)
            rounded = rounded_weights(path, size) if precision == "fp16" else {}
            for output in report.outputs:
                yield Row(
                    model=model.name,
                    variant=found.spec.variant,
                    parameters=found.cost.parameters,
                    precision=precision,
                    image_size=size,
                    output=output.output,
                    relative_error=float(f"{output.relative_error:.3g}"),
                    centred_sqnr_db=round(output.centred_sqnr_db, 1),
                    agreement=output.agreement,
                    megabytes=round(artifact.size / 1e6, 2),
                    seconds=round(seconds, 1),
                    rounded_weights_db=rounded.get(output.output),
                    missed=exceeded((output,), tolerance),
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names in timm; all if none is given")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    provenance = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seed": SEED,
        "weights": "seeded, matrices 1.5 times as wide as keeps the variance; MobileViT with settled batch norms",
        "images": f"synthetic, seed 0, {IMAGES} images",
        "device": machine.identity(),
        "threads": torch.get_num_threads(),
    }
    measured: list[dict[str, Any]] = []
    if arguments.models and arguments.output.exists():  # some models again: the rows of the others stay
        kept = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
        measured = [row for row in kept if row["model"] not in arguments.models]
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            if arguments.models and model.name not in arguments.models:
                continue
            for row in rows(model, Path(folder)):
                measured.append(asdict(row))
                print(*asdict(row).values(), flush=True)
            # After each model, so that an interrupted run leaves what it has measured.
            content = {"provenance": provenance, "rows": measured}
            arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
