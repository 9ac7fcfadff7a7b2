# SPDX-License-Identifier: Apache-2.0
"""Whether an engine computes what its ONNX file asks for: counts in a sentence, shares, and where it falls short."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from vitedge.records import EngineProduct, EngineRecord
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
        fused = sum(bool(attention.found) for attention in record.attentions)
        parts.append(f"{fused} of {len(record.attentions)} attentions fused")
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


def share(products: Sequence[EngineProduct], *, by_macs: bool = False) -> float:
    """Returns the share of products whose kernel has the type that was asked for, 0 to 1; 1 where there are none.

    Args:
        products: of a record, such as those that ask for ``int8``.
        by_macs: weigh each by its multiply-accumulates instead of counting it once.
    """
    weights = [product.macs if by_macs else 1 for product in products]
    kept = [weight for weight, product in zip(weights, products, strict=True) if product.found == product.asked]
    return sum(kept) / sum(weights) if sum(weights) else 1.0


def shortfall(record: EngineRecord, minimum_share: float, kept: Collection[str] = ()) -> str:
    """Returns where an engine computes less than was asked of it, as a sentence that names the first modules.

    A file that asks for int8 or half precision anywhere asks for no float32 product and for fused attentions. A product
    or attention whose kernel is not known counts as not there.

    Args:
        record: the engine; one whose kernels are not known has no shortfall, and has not passed either.
        minimum_share: the share of the quantized products that have to be in int8, of all products that must not be in
            float32, and of the attentions that have to be fused, 0 to 1.
        kept: modules that the file keeps in float32 on purpose, of which nothing less is expected.

    Returns:
        The sentence; empty where every share is reached.
    """
    if record.layers is None:
        return ""
    found = []
    for title, chosen, fits in _EXPECTATIONS:
        asked = [product for product in chosen(record) if product.module not in kept]
        missing = [product for product in asked if not fits(product)]
        if asked and 1 - len(missing) / len(asked) < minimum_share:
            names = some(product.module or product.node for product in missing)
            found.append(f"{len(asked) - len(missing)} of {len(asked)} {title} (not {names})")
    return f"{'; '.join(found)}, where at least {minimum_share:.0%} was asked for." if found else ""


def _count(products: Sequence[EngineProduct]) -> str:
    return f"{len(products)} product{'' if len(products) == 1 else 's'}"


def _quantized(record: EngineRecord) -> Sequence[EngineProduct]:
    return [product for product in record.products if product.asked == "int8"]


def _narrow(record: EngineRecord) -> bool:
    return any(product.asked not in ("fp32", "") for product in record.products)


_EXPECTATIONS: tuple[
    tuple[str, Callable[[EngineRecord], Sequence[EngineProduct]], Callable[[EngineProduct], bool]], ...
] = (
    ("quantized products run in int8", _quantized, lambda product: product.found == "int8"),
    (
        "products run in less than float32",
        lambda record: record.products if _narrow(record) else (),
        lambda product: product.found not in ("fp32", ""),
    ),
    (
        "attentions are fused",
        lambda record: record.attentions if _narrow(record) else (),
        lambda attention: bool(attention.found),
    ),
)
"""The claim, the products that it is made of, and whether one of them fits it."""
