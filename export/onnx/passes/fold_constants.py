# SPDX-License-Identifier: Apache-2.0
"""Whatever depends on constants alone becomes a constant: onnxscript computes it, and here weights keep their names."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer

from vitedge.export.onnx.passes.graph import input_of

_UNLIMITED = sys.maxsize


class FoldConstantsPass(ir.passes.InPlacePass):
    """Evaluates every node whose inputs are constants, whatever their size; quantized weights stay what they are.

    A transposed or reshaped weight is a view, not a copy, and keeps the name and the place of the weight: the layout is
    part of the operator that reads it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Makes initializers of constants, and folds."""
        lifted = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        order = list(model.graph.initializers)
        names: dict[str, str] = {}

        def note_view(node: ir.Node) -> None:
            if node.op_type in ("Reshape", "Transpose"):
                source = str(input_of(node).name)
                names[str(node.outputs[0].name)] = names.get(source, source)

        folded = optimizer.fold_constants(
            model, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED, should_fold=note_view
        )
        _rename(model.graph, names)
        _reorder(model.graph, order)
        return ir.passes.PassResult(model, lifted.modified or folded.modified)


def _rename(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Gives a view the name of its source where that is gone, and leaves one view where a layer is called twice."""
    for old, new in names.items():
        view = graph.initializers.pop(old, None)
        if view is None:
            continue
        first = graph.initializers.get(new)
        if first is not None and _layout(first) == _layout(view):
            ir.convenience.replace_all_uses_with(view, first)
            continue
        view.name = new if first is None else old
        graph.register_initializer(view)


def _layout(value: ir.Value) -> object:
    """Where the elements of an initializer are in memory, and how; equal for equal views of one weight."""
    return None if value.const_value is None else value.const_value.numpy().__array_interface__


def _reorder(graph: ir.Graph, names: Sequence[str]) -> None:
    """Puts the initializers in the order of the names, those of other names behind them."""
    places = {name: place for place, name in enumerate(names)}
    values = sorted(graph.initializers.values(), key=lambda value: places.get(str(value.name), len(places)))
    graph.initializers.clear()
    for value in values:
        graph.register_initializer(value)
