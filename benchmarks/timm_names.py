# SPDX-License-Identifier: Apache-2.0
"""Whether weights of every model of timm's lists are read as that model: its logits beside those of what was loaded.

``python -m benchmarks.timm_names [PATTERN ...]`` from the root of the repository. The weights are seeded, and batch
norms have the statistics of synthetic images; rows of other patterns stay. ``--onnx`` and ``--int8`` export the models.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.timm_index import built
from tests.seeding import seeded
from vitedge.checkpoints.families.timm.signature import index
from vitedge.checkpoints.read import read
from vitedge.devices import machine
from vitedge.errors import UserError
from vitedge.images.synthetic import synthesize
from vitedge.models.reference import load_reference
from vitedge.recipe import ExportRecipe, QuantizationRecipe
from vitedge.verbs.export import export

RESULTS = Path(__file__).with_name("results") / "timm_names.json"
LISTS = {
    "first": ("vit_*", "deit*", "pit_*", "mobilevit*", "swin*", "beit*", "eva*", "flexivit*"),
    "second": (
        *("fastvit*", "efficientvit*", "levit*", "tiny_vit*", "cait*", "xcit*", "edgenext*", "efficientformer*"),
        *("repvit*", "hiera*"),
    ),
}
LARGEST = 100_000_000
"""Parameters."""
TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest logit."""


@dataclass(frozen=True)
class Row:
    """One model of timm."""

    model: str
    parameters: int
    read_as: str
    """Family and variant."""
    result: str
    """``right``; ``noted``: other logits, and a note that names the model; ``refused``; ``wrong``."""
    error: float | None
    detail: str
    """The sentence of a refusal, or the note that names the model."""
    named: str = ""
    """Result with ``--model NAME``, where it is not right without."""


@torch.no_grad()
def made(name: str) -> torch.nn.Module:
    """Returns a model with seeded weights and batch norms that know their inputs, with room for images unlike these.

    Seeded statistics let activations grow from block to block, up to 1e11, and PyTorch's own float32 is then off from
    its float64 by more than the tolerance; with the mere variance of a few images it is on one with more contrast.
    """
    module = seeded(timm.create_model(name), 0).eval()
    norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]

    def observe(norm: Any, inputs: tuple[torch.Tensor]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        norm.running_mean.copy_(inputs[0].mean(axes))
        norm.running_var.fill_(4 * inputs[0].var(axes).mean())

    handles = [norm.register_forward_pre_hook(observe) for norm in norms]
    if norms:
        config = module.pretrained_cfg
        _, height, width = config["input_size"]
        pixels = torch.from_numpy(synthesize(16, height, width, 0)) / 255
        mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        module((pixels - mean) / std)
    for handle in handles:
        handle.remove()
    return module


def row(name: str, parameters: int, folder: Path) -> Row:
    """Writes a model's seeded weights, reads them, and compares the logits of one image."""
    module = made(name)
    path = folder / "model.pth"
    torch.save(module.state_dict(), path)
    image = torch.rand((1, *module.pretrained_cfg["input_size"]), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = module(image)
    as_read, error, detail = compared(path, image, expected, {})
    result = "refused" if error is None else "right" if error <= TOLERANCE else "noted" if name in detail else "wrong"
    named = ""
    if result != "right":
        _, error_named, sentence = compared(path, image, expected, {"model": name})
        is_right = error_named is not None and error_named <= TOLERANCE
        named = "right" if is_right else sentence or f"error {error_named:.2g}"
    return Row(name, parameters, as_read, result, error, detail if result != "right" else "", named)


def compared(
    path: Path, image: torch.Tensor, expected: torch.Tensor, overrides: Mapping[str, Any]
) -> tuple[str, float | None, str]:
    """Returns what the weights were read as, the relative error of the logits, and the notes or the refusal."""
    try:
        checkpoint = read(str(path), overrides=overrides)
        reference = load_reference(checkpoint)
    except UserError as refusal:
        return "", None, str(refusal)
    spec = reference.spec
    notes = " ".join(spec.notes)
    if tuple(image.shape[-2:]) != spec.image_size:
        return f"{spec.family}: {spec.variant} at {spec.image_size}", float("inf"), notes
    with torch.inference_mode():
        found = reference.module(image)
    if found.shape != expected.shape:
        return f"{spec.family}: {spec.variant}", float("inf"), notes
    error = float((found - expected).abs().max() / expected.abs().max())
    return f"{spec.family}: {spec.variant}", float(f"{error:.3g}"), notes


def exported(name: str, precision: str, folder: Path) -> dict[str, Any]:
    """Exports a model's seeded weights to ONNX and returns the parity that was measured, or the refusal."""
    path = folder / "model.pth"
    torch.save(made(name).state_dict(), path)
    quantization = None if precision == "fp32" else QuantizationRecipe(scheme=precision, images="synthetic")
    recipe = ExportRecipe(precision=precision, image_count=4, overrides={"model": name}, quantization=quantization)
    try:
        report = export(str(path), folder / "bundle", recipe, force=True).manifest.parity[0]
    except Exception as error:  # every failure is a result of this table
        return {"model": name, "precision": precision, "failed": f"{type(error).__name__}: {str(error)[:300]}"}
    output = report.outputs[0]
    return {
        "model": name,
        "precision": precision,
        "relative_error": float(f"{output.relative_error:.3g}"),
        "centred_sqnr_db": round(output.centred_sqnr_db, 1),
    }


def write(output: Path, rows: Mapping[str, dict[str, Any]], exports: Mapping[str, dict[str, Any]]) -> None:
    """Writes all rows, with their number by list and result."""
    provenance = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "weights": "seeded, batch norms with the statistics of synthetic images",
        "timm": timm.__version__,
        "device": machine.identity(),
    }
    counts = {
        title: Counter(entry["result"] for name, entry in rows.items() if matches(name, patterns))
        for title, patterns in LISTS.items()
    }
    content = {
        "provenance": provenance,
        "counts": counts,
        "rows": [rows[name] for name in sorted(rows)],
        "exports": [exports[key] for key in sorted(exports)],
    }
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", default=[*LISTS["first"], *LISTS["second"]])
    parser.add_argument("--missing", action="store_true", help="only models without a row")
    parser.add_argument("--onnx", action="store_true", help="export in fp32 instead of reading")
    parser.add_argument("--int8", action="store_true", help="export in int8 instead of reading")
    parser.add_argument("--largest", type=int, default=LARGEST, help="parameters")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else {}
    rows = {entry["model"]: entry for entry in kept.get("rows", ())}
    exports = {f"{entry['model']} {entry['precision']}": entry for entry in kept.get("exports", ())}
    precisions = [*(["fp32"] if arguments.onnx else []), *(["int8"] if arguments.int8 else [])]
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in index() if matches(name, arguments.patterns)):
            parameters = sum(parameter.numel() for parameter in built(name).parameters())
            if parameters >= min(arguments.largest, LARGEST) or (arguments.missing and name in rows):
                continue
            for precision in precisions:
                entry = exported(name, precision, Path(folder))
                exports[f"{name} {precision}"] = entry
                print(*entry.values(), flush=True)
            if not precisions:
                rows[name] = asdict(row(name, parameters, Path(folder)))
                print(*rows[name].values(), flush=True)
            write(arguments.output, rows, exports)


if __name__ == "__main__":
    main()
