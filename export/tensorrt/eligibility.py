# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file leaves TensorRT to gain: attentions that it does not fuse, and weights that are 2:4 sparse.

Neither is a fault of the file, so they are remarks and no findings. The head sizes are those of the developer's guide
("fused attention"); a group of four weights along the axis that a product sums over has to hold two zeros for the
sparse tensor cores of SM 8.0 and later ("structured sparsity").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from vitedge.export.tensorrt.attention import attentions_of, head_width
from vitedge.export.tensorrt.graph import OnnxGraph
from vitedge.export.tensorrt.heads import fuses
from vitedge.export.tensorrt.sparsity import count_sparse


def remarks(graph: OnnxGraph) -> tuple[str, ...]:
    """Returns a phrase for each remark: on attentions first, then on sparse weights."""
    return (*_on_attentions(graph), *_on_sparse_weights(graph))


def _on_attentions(graph: OnnxGraph) -> Iterator[str]:
    attentions = [(head_width(graph, one), all(one.quantized.values())) for one in attentions_of(graph)]
    others = Counter(width for width, integers in attentions if width and not fuses(width, integers=integers))
    if others:
        held = ", ".join(f"{count} of {width} channels" for width, count in sorted(others.items()))
        yield (
            f"{sum(others.values())} of {len(attentions)} attentions have heads of a size that TensorRT's guide does "
            f"not list as fused: {held}; --pad-heads widens them by zeros, exactly"
        )


def _on_sparse_weights(graph: OnnxGraph) -> Iterator[str]:
    sparse, weights = count_sparse(graph.model, graph.numbers)
    if sparse:
        yield f"{sparse} of {weights} weights are 2:4 sparse, for the sparse tensor cores of SM 8.0 and later"
