# SPDX-License-Identifier: Apache-2.0
"""Builds engines of full-size models with TensorRT for RTX, on a machine without a GPU, and reads what was built.

``python -m benchmarks.tensorrt_build`` from the root of the repository writes
``benchmarks/results/tensorrt_build.json``; with names of models it measures those again and keeps the other rows. Every
combination of precision, batch and GPU is built, or refused before the build with the module and the reason. Nothing is
run: there is no GPU. A figure that misses its limit is written down like any other and ends the script with exit code
1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quantization_models import IMAGES, SIX, lower, provenance, write_checkpoint
from benchmarks.sheet import Sheet, parser
from vitedge.errors import CheckFailed
from vitedge.export.tensorrt.building import build
from vitedge.export.tensorrt.records import EngineProduct, EngineRecord
from vitedge.export.tensorrt.request import EngineRequest, shapes_of
from vitedge.export.tensorrt.summary import float32_products, summary
from vitedge.files.bundle import read_manifest

RESULTS = Path(__file__).with_name("results") / "tensorrt_build.json"
PRECISIONS = ("fp32", "fp16", "int8", "w8")
BATCHES: tuple[int | str, ...] = (1, "dynamic")
GPUS = ("SM75", "SM86", "SM89", "SM120")
LIMITS = {"int8_products": 0.95, "int8_macs": 0.9}
"""Shares of int8 engines for `LIMITED_GPUS`, of the models of `LIMITED`: of the quantized products that run in int8,
and of the multiply-accumulates of Linears and convolutions, without stem and head, that are among them."""
LIMITED = ("ViT-S", "DeiT-S", "PiT-S", "Swin-T")
LIMITED_GPUS = ("SM86", "SM120")
ENDS = ("patch_embed", "head", "stem")
"""How the names of modules begin that are stem or head."""


@dataclass(frozen=True)
class Row:
    """One engine, or the reason why there is none."""

    model: str
    precision: str
    batch: str
    gpu: str
    refused: str = ""
    """The reason why it was not built, found before the build; empty where it was built."""
    seconds: float = 0.0
    """Wall time of the build, in a process of its own."""
    onnx_mb: float = 0.0
    engine_mb: float = 0.0
    summary: str = ""
    quantized: int = 0
    """Products that the file asks for in int8."""
    in_int8: int = 0
    int8_macs: float = 0.0
    """Share of the multiply-accumulates of Linears and convolutions, without stem and head."""
    in_float32: int = 0
    attentions: int = 0
    fused: int = 0


def measure(title: str) -> Iterator[Row]:
    """Yields the rows of one model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(title, folder)
        for precision in PRECISIONS:
            for batch in BATCHES:
                bundle = folder / f"{precision}-{batch}"
                path = lower(checkpoint, bundle, precision, batch=batch, profiles=("rtx",))
                for gpu in GPUS:
                    yield _built(Row(title, precision, str(batch), gpu), path)


def _built(row: Row, path: Path) -> Row:
    """Returns the row with what was built."""
    (source,) = read_manifest(path.parent).artifacts
    engine = path.with_suffix(f".{row.gpu}.engine")
    what = {"model": row.model, "precision": row.precision, "batch": row.batch, "gpu": row.gpu}
    try:
        record = build(EngineRequest(path, engine, (row.gpu,), shapes_of(source)))
    except CheckFailed as refused:
        return Row(**what, refused=str(refused).replace(str(path), path.name))
    quantized = [product for product in record.products if product.asked == "int8"]
    return Row(
        **what,
        seconds=round(record.seconds, 1),
        onnx_mb=round(path.stat().st_size / 1e6, 1),
        engine_mb=round(engine.stat().st_size / 1e6, 1),
        summary=summary(record),
        quantized=len(quantized),
        in_int8=sum(product.found == "int8" for product in quantized),
        int8_macs=round(_int8_macs(record), 4),
        in_float32=len(float32_products(record)),
        attentions=len(record.attentions),
        fused=sum(bool(attention.found) for attention in record.attentions),
    )


def _int8_macs(record: EngineRecord) -> float:
    layers = [product for product in record.products if _is_layer(product)]
    total = sum(product.macs for product in layers)
    return sum(product.macs for product in layers if product.found == "int8") / total if total else 0.0


def _is_layer(product: EngineProduct) -> bool:
    """Whether a product is a Linear or a convolution between stem and head, and no product of an attention."""
    is_attention = product.module.endswith("attn") or product.module.endswith("attn.softmax")
    return not is_attention and not product.module.startswith(ENDS)


def missed(rows: Sequence[Row]) -> list[str]:
    """Returns the limits that are missed, each as a sentence."""
    found = []
    fused = {(row.model, row.batch, row.gpu): row.fused for row in rows if row.precision == "fp16" and not row.refused}
    for row in rows:
        title = f"{row.model} {row.precision}, batch {row.batch}, {row.gpu}"
        if row.precision != "int8" or row.gpu not in LIMITED_GPUS or row.model not in LIMITED:
            continue
        if row.refused:
            found.append(f"{title}: {row.refused}")
            continue
        if row.in_int8 < LIMITS["int8_products"] * row.quantized:
            found.append(f"{title}: {row.in_int8} of {row.quantized} quantized products in int8")
        if row.int8_macs < LIMITS["int8_macs"]:
            found.append(f"{title}: {row.int8_macs:.1%} of the multiply-accumulates in int8")
        if row.fused < fused.get((row.model, row.batch, row.gpu), 0):
            found.append(f"{title}: {row.fused} attentions fused, fewer than with fp16")
    return found


def main() -> None:
    asked = parser(__doc__, "MODEL", SIX, RESULTS).parse_args()
    told = provenance(calibration_images=IMAGES, builder="TensorRT for RTX, on a processor; no engine was run")
    sheet = Sheet(asked.output, Row, _place, missed, {"provenance": told, "limits": LIMITS})
    for title in asked.chosen:
        for row in measure(title):
            print(row.model, row.precision, row.batch, row.gpu, row.seconds, row.refused or row.summary, flush=True)
            sheet.put(row)
    sheet.finish()


def _place(row: Row) -> tuple[int, ...]:
    order = (list(SIX), PRECISIONS, [str(batch) for batch in BATCHES], GPUS)
    values = (row.model, row.precision, row.batch, row.gpu)
    return tuple(names.index(value) for names, value in zip(order, values, strict=True))


if __name__ == "__main__":
    main()
