# SPDX-License-Identifier: Apache-2.0
"""Products that have to stay in float32, written so that TensorRT's compiler leaves them there.

A float32 product that stands alone between a Cast from float16 and one back to it is computed in float16 by TensorRT
for RTX 1.7.1: it rounds the weights to float16, those too that overflow there. Followed by an operator in float32 that
it cannot take into the product it stays as it is; a bias is taken in (all seen in the kernels of built engines).
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from vitedge.export.onnx.passes.graph import Graph
from vitedge.export.onnx.passes.integers import PRODUCTS


def guard_float32(graph: Graph) -> None:
    """Puts a Max between every float32 product and the Cast to float16 that alone reads it.

    Args:
        graph: of half precision, see `vitedge.export.onnx.passes.half`. Every finite number stays what it is: the
            other operand is the lowest of float32.
    """
    for node in list(graph.model.graph):
        cast = _only_cast(node) if node.op_type in PRODUCTS else None
        if cast is not None:
            lowest = graph.add_constant("lowest", torch.tensor(torch.finfo(torch.float32).min))
            product = node.outputs[0]
            cast.replace_input_with(0, graph.emit(cast, "Max", [product, lowest], {}, like=product))


def _only_cast(node: ir.Node) -> ir.Node | None:
    """Returns the Cast from float32 to float16 that is the only consumer of a product."""
    product = node.outputs[0]
    readers = [reader for reader, _ in product.uses()]
    if product.dtype != ir.DataType.FLOAT or len(readers) != 1 or readers[0].op_type != "Cast":
        return None
    return readers[0] if readers[0].attributes["to"].as_int() == int(ir.DataType.FLOAT16) else None
