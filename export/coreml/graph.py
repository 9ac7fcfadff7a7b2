# SPDX-License-Identifier: Apache-2.0
"""The captured program as coremltools reads it: a copy whose names are module names, with its image as floats.

coremltools keeps nothing of a node but its name and its ``stack_trace``. The name of the node is put into the latter,
and comes back as a scope of every operation that the node became, whatever the graph passes made of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec, TensorArgument
from torch.fx import Graph, Node

from vitedge.export.coreml.quantized import ACTIVATIONS, write_constants
from vitedge.mlprogram.modules import identifier
from vitedge.program.modules import enclosing_modules, innermost_module
from vitedge.program.program import Program
from vitedge.program.qdq import CONSTANTS, DEQUANTIZE

_ATEN = torch.ops.aten
QUANTIZED = "_quantized"
"""Suffix of the name of a weight that is stored as integers."""
_NOTHING = (_ATEN.alias.default, _ATEN._assert_tensor_metadata.default)
"""Nodes without an effect that coremltools has no conversion for."""
_LAST = (_ATEN.conv2d.default, _ATEN.convolution.default, DEQUANTIZE)
"""Operators at which the normalization of pixels ends."""


@dataclass(frozen=True)
class CoreMLGraph:
    """The copy of a program for coremltools, and where its nodes come from."""

    exported: ExportedProgram
    """In ATen, its image input ``float32``; every node and weight is called after its module."""
    modules: dict[str, str]
    """Node name to the innermost module of the reference that it belongs to."""
    normalization: frozenset[str]
    """Names of the nodes between an ``uint8`` image and the first convolution, or the integers that this reads."""
    blocks: dict[str, str]
    """Block of the program to the node whose value the block returns."""

    def under(self, modules: Iterable[str]) -> frozenset[str]:
        """Returns the names of the nodes that belong to one of the modules or to a part of it."""
        roots = tuple(modules)
        return frozenset(
            node
            for node, path in self.modules.items()
            if any(path == root or path.startswith(f"{root}.") for root in roots)
        )

    def paths(self) -> tuple[str, ...]:
        """Returns every module that a node belongs to, in order of execution; not the reference itself."""
        return tuple(path for path in dict.fromkeys(self.modules.values()) if path)


def to_coreml_graph(program: Program, *, probabilities: bool) -> CoreMLGraph:
    """Copies the program's graph for coremltools; its weights are shared, not copied.

    Args:
        program: captured at a fixed batch; it is left as it is.
        probabilities: adds the softmax of the first output as one more output.
    """
    exported = program.exported.run_decompositions({})
    write_constants(exported)
    graph = exported.graph
    normalization = _take_floats(graph) if program.inputs[0].dtype == "uint8" else []
    _drop_nothings(graph)
    _write_rolls_as_slices(graph)
    modules = {node: innermost_module(node) for node in _calls(graph)}
    blocks = {block: node for block in program.blocks if (node := _returned(graph, block)) is not None}
    if probabilities:
        _add_softmax(exported)
    _rename(exported)
    for node in _calls(graph):
        node.meta["stack_trace"] = node.name
    return CoreMLGraph(
        exported,
        {node.name: path for node, path in modules.items()},
        frozenset(node.name for node in normalization if node in modules),
        {block: node.name for block, node in blocks.items()},
    )


def _calls(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if node.op == "call_function")


def _take_floats(graph: Graph) -> list[Node]:
    """Retypes the image to float32, drops its cast, and returns what is computed before the first convolution.

    An image of Core ML arrives as 0 to 255 in floating point, which its conversion front end cannot express otherwise.
    """
    image = next(node for node in graph.nodes if node.op == "placeholder" and node.meta["val"].dtype == torch.uint8)
    image.meta["val"] = image.meta["val"].to(torch.float32)
    for cast in [user for user in image.users if user.target is _ATEN._to_copy.default]:
        cast.replace_all_uses_with(image)
        graph.erase_node(cast)
    reached, found = [image], []
    while reached:
        for user in reached.pop().users:
            if user.op == "call_function" and user.target not in _LAST and user not in found:
                found.append(user)
                reached.append(user)
    return found


def _drop_nothings(graph: Graph) -> None:
    for node in reversed(list(_calls(graph))):
        if node.target in _NOTHING:
            if node.users:
                (value,) = node.all_input_nodes
                node.replace_all_uses_with(value)
            graph.erase_node(node)


def _write_rolls_as_slices(graph: Graph) -> None:
    """Writes a roll as two slices, exchanged; coremltools would gather by index, which leaves the Neural Engine."""
    for node in [node for node in _calls(graph) if node.target is _ATEN.roll.default]:
        arguments: Any = node.args
        value, shifts, dims = arguments
        with graph.inserting_before(node):
            for shift, dim in zip(shifts, dims, strict=True):
                value = _rolled(node, value, shift, dim)
        node.replace_all_uses_with(value)
        graph.erase_node(node)


def _rolled(roll: Node, value: Any, shift: int, dim: int) -> Node:
    """Rolls one axis; the new nodes belong to the module of the roll."""
    edge = value.meta["val"].shape[dim]
    cut = -shift % edge
    parts = []
    for start, end in ((cut, edge), (0, cut)):
        part = roll.graph.call_function(_ATEN.slice.Tensor, (value, dim, start, end))
        part.meta = {**roll.meta, "val": value.meta["val"].narrow(dim, start, end - start)}
        parts.append(part)
    whole = roll.graph.call_function(_ATEN.cat.default, (parts, dim))
    whole.meta = dict(roll.meta)
    return whole


def _returned(graph: Graph, block: str) -> Node | None:
    """Returns the last node of a block with a consumer outside of it."""

    def inside(node: Node) -> bool:
        return block in enclosing_modules(node)

    ends = [node for node in _calls(graph) if inside(node) and not all(inside(user) for user in node.users)]
    # A batch normalization also returns its statistics; as an operation of Core ML it does not.
    if ends and ends[-1].target is operator.getitem and ends[-1].args[1] == 0:
        return ends[-1].all_input_nodes[0]
    return ends[-1] if ends else None


def _add_softmax(exported: ExportedProgram) -> None:
    output = next(node for node in exported.graph.nodes if node.op == "output")
    logits = output.args[0][0]
    with exported.graph.inserting_before(output):
        softmax = exported.graph.call_function(_ATEN.softmax.int, (logits, -1))
    softmax.meta = {"val": logits.meta["val"]}
    output.args = ((*output.args[0], softmax),)
    exported.graph_signature.output_specs.append(OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(softmax.name), None))


def _rename(exported: ExportedProgram) -> None:
    """Calls weights by their state name and nodes by their module and operation, as far as Core ML's names allow."""
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None:
            node = placeholders[spec.arg.name]
            node._rename(identifier(spec.target))
            spec.arg.name = node.name
    for node in _calls(exported.graph):
        node._rename(identifier(_name(node)))
    output = next(node for node in exported.graph.nodes if node.op == "output")
    for spec, value in zip(exported.graph_signature.output_specs, output.args[0], strict=True):
        spec.arg.name = value.name


def _name(node: Node) -> str:
    """Returns the new name of a node; a weight stored as integers keeps their name, with coremltools' suffix."""
    if node.target in CONSTANTS:
        return f"{node.all_input_nodes[0].name}{QUANTIZED}"
    return f"{innermost_module(node)}.{_operation(node.target)}"


def _operation(target: Any) -> str:
    return ACTIVATIONS.get(target) or str(getattr(target, "__name__", target)).partition(".")[0]
