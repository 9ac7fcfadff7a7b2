# SPDX-License-Identifier: Apache-2.0
"""Whether an engine computes what its ONNX file asks for: counts in a sentence, shares, and where it falls short."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from vitedge.export.tensorrt.records import EngineProduct, EngineRecord
from vitedge.sentences import some

UNKNOWN_KERNELS = "the builder did not list its kernels, so it is not known what they compute"
_TITLES = {"int8": "quantized products in int8", "fp16": "products in fp16", "bf16": "products in bf16"}


def summary(record: EngineRecord) -> str:
    """Returns the counts as a phrase: ``48 of 48 quantized products in int8, 12 of 12 attentions fused``."""
    if record.layers is None:
        return UNKNOWN_KERNELS
    parts = []
    for kind, title in _TITLES.items():
        asked = [product for product in record.products if product.asked == kind]
        if asked:
            parts.append(f"{sum(product.found == kind for product in asked)} of {len(asked)} {title}")
    floating = float32_products(record)
    if floating:
        parts.append(f"{_count(floating)} in float32")
    narrowed = narrowed_products(record)
    if narrowed:
        parts.append(f"{_count(narrowed)} asked for in float32 in less")
    dequantized = [product for product in record.products if product.stored_weights]
    if dequantized:
        within = sum(product.read_weights == product.stored_weights for product in dequantized)
        parts.append(f"{within} of {len(dequantized)} dequantize their weights in the product's own kernel")
    if record.attentions:
        parts.append(_fused(record.attentions))
    return ", ".join(parts) or "no products"


def float32_products(record: EngineRecord) -> tuple[EngineProduct, ...]:
    """Returns the products that the engine computes in float32, whatever was asked."""
    return tuple(product for product in record.products if product.found == "fp32")


def narrowed_products(record: EngineRecord) -> tuple[EngineProduct, ...]:
    """Returns the products that the file keeps in float32 and the engine computes in a narrower type.

    TensorRT-RTX 1.7 does so to a float32 product that stands alone between a Cast from float16 and one back to it: it
    rounds the weights to float16, those too that overflow there.
    """
    return tuple(
        product for product in record.products if product.asked == "fp32" and product.found not in ("fp32", "")
    )


def shortfall(record: EngineRecord, minimum_share: float, *, half: bool, kept: Collection[str] = ()) -> str:
    """Returns where an engine computes less than was asked of it, as a sentence that names the first modules.

    Where half precision is asked for, no product may be left in float32, and attentions have to be fused. A product or
    attention whose kernel is not known counts as not there.

    Args:
        record: the engine; one whose kernels are not known has no shortfall, and has not passed either.
        half: whether what is not quantized was asked for in half precision.
        minimum_share: the share of the quantized products that have to be in int8, of all products that must not be in
            float32, and of the attentions that have to be fused, 0 to 1.
        kept: modules that the file keeps in float32 on purpose, of which nothing less is expected.

    Returns:
        The sentence; empty where every share is reached.
    """
    if record.layers is None:
        return ""
    found = []
    for title, asked, missing in _expectations(record, half=half, kept=kept):
        if asked and 1 - len(missing) / len(asked) < minimum_share:
            names = some(dict.fromkeys(product.module or product.node for product in missing))
            found.append(f"{len(asked) - len(missing)} of {len(asked)} {title} (not {names})")
    return f"{'; '.join(found)}, where at least {minimum_share:.0%} was asked for." if found else ""


def _expectations(
    record: EngineRecord, *, half: bool, kept: Collection[str]
) -> Iterator[tuple[str, Sequence[EngineProduct], Sequence[EngineProduct]]]:
    """Yields claims, the products or attentions that each is made of, and those of them that do not fit it."""
    quantized = [product for product in record.products if product.asked == "int8"]
    yield "quantized products run in int8", quantized, [one for one in quantized if one.found != "int8"]
    if half:
        narrow = [product for product in record.products if product.module not in kept]
        wide = [product for product in narrow if product.found in ("fp32", "")]
        yield "products run in less than float32", narrow, wide
        attentions = [one for one in record.attentions if one.expected and one.module not in kept]
        yield "attentions are fused", attentions, [one for one in attentions if not one.found]


def _fused(attentions: Sequence[EngineProduct]) -> str:
    """Returns how many attentions are fused, and how many of the others no kernel can be expected for."""
    fused = sum(bool(attention.found) for attention in attentions)
    without = sum(not (attention.expected or attention.found) for attention in attentions)
    why = "heads too narrow, too wide or odd, or one head of one image"
    reason = f" (no fused kernel is expected for {without}: {why})" if without else ""
    return f"{fused} of {len(attentions)} attentions fused{reason}"


def _count(products: Sequence[EngineProduct]) -> str:
    return f"{len(products)} product{'' if len(products) == 1 else 's'}"
