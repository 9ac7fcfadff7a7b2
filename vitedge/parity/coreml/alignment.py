# SPDX-License-Identifier: Apache-2.0
"""Finds the pairs of values of an ML Program and of the captured reference that have to be equal.

A program written by vitedge names a value after its node. In anybody's program, operations that hold weights are
matched with the nodes that apply them: by the name of the weight, by its content, and where both say nothing by the
order of operations and the sizes of their weights. Damaged or compressed weights are matched all the same.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from vitedge.export.coreml.describe import PREFIX
from vitedge.export.coreml.expected_weights import fold
from vitedge.export.coreml.graph import CoreMLGraph
from vitedge.export.coreml.weights import LIKENESS, Weight, by_content, content_key, cosine, plain
from vitedge.mlprogram.blobs import Array
from vitedge.mlprogram.program import MLProgram, Named, Operation, ValueType
from vitedge.program.batch_norm import folds_into
from vitedge.program.constants import constant_values, sources

_ATEN = torch.ops.aten
_CAST = re.compile(r"_cast_(fp16|fp32|uint16|int16|int32)")
"""Suffix that the fp16 pass of coremltools puts into the name of a value."""
_COUNTED = re.compile(r"[a-z_]+_\d+$")
"""A name that coremltools made up."""
_MATRIX, _CONVOLUTION, _NORM, _OTHER = "matrix", "convolution", "normalization", "other"
_KINDS: Mapping[str, str] = {
    "linear": _MATRIX, "matmul": _MATRIX, "conv": _CONVOLUTION, "layer_norm": _NORM, "batch_norm": _NORM,
    "instance_norm": _NORM, "scaled_dot_product_attention": "add",
}  # fmt: skip
_BATCH_NORM = _ATEN._native_batch_norm_legit_no_training.default
_TARGETS: Mapping[Any, tuple[str, frozenset[str], bool]] = {
    _ATEN.linear.default: (_MATRIX, frozenset(("linear", "matmul", "add")), True),
    _ATEN.conv2d.default: (_CONVOLUTION, frozenset(("conv", "add")), True),
    _ATEN.layer_norm.default: (_NORM, frozenset(("layer_norm",)), True),
    _BATCH_NORM: (_NORM, frozenset(("batch_norm",)), True),
    _ATEN.group_norm.default: (_NORM, frozenset(("batch_norm", "add")), False),
    _ATEN.add.Tensor: ("add", frozenset(("add",)), False),
    _ATEN.mul.Tensor: ("mul", frozenset(("mul",)), False),
    _ATEN.cat.default: ("concat", frozenset(("concat",)), False),
    # Its mask is added to the scores; the operation is often decomposed.
    _ATEN.scaled_dot_product_attention.default: ("add", frozenset(("scaled_dot_product_attention",)), False),
}
"""Operator that applies weights, to three things: the kind of operation that holds the same weights in a package, the
operations whose result equals the node's, and whether the first operation has the same input as the node."""


@dataclass(frozen=True)
class Anchor:
    """Two values that have to be equal."""

    value: str
    """Name of the value in the ML Program."""
    node: str
    """Name of the node in the reference's graph."""
    module: str
    """The innermost module of the reference that the node belongs to; empty for the model itself."""


@dataclass(frozen=True)
class Alignment:
    """The correspondence of an ML Program and the reference."""

    anchors: tuple[Anchor, ...]
    """In the program's order of execution; no value and no node twice."""
    halved: frozenset[str]
    """Nodes whose weight the program stores in float16."""
    folded: frozenset[str]
    """Batch normalizations that the program has folded into convolutions stored in float16."""
    known: frozenset[str]
    """Constants of the program that correspond to a weight."""
    unmatched: tuple[str, ...]
    """Modules that apply weights and have no anchor."""


@dataclass(frozen=True)
class _Holder:
    """An operation with weights."""

    operation: Operation
    constants: tuple[tuple[str, ValueType], ...]
    """Names and types of the weights, in the order of PyTorch's parameters."""

    @property
    def token(self) -> tuple[str, int]:
        """Kind and largest weight size, by which the operation is matched where names say nothing."""
        kind = _KINDS.get(self.operation.kind, self.operation.kind)
        return kind, max(math.prod(_edges(type_)) for _, type_ in self.constants)


@dataclass(frozen=True)
class _Applier:
    """A node with weights."""

    node: Node
    sources: tuple[tuple[str, int], ...]
    """Name and number of elements of every weight."""
    names: frozenset[str]
    """Names that the weights may have in a package."""

    @property
    def token(self) -> tuple[str, int]:
        """Kind and largest weight size, equal to those of the operation that holds the same weights."""
        return _TARGETS.get(self.node.target, (_OTHER,))[0], max(size for _, size in self.sources)


_Finder = Callable[[_Holder], list[_Applier]]
"""Returns the nodes that an operation's weights may belong to."""


def align(program: MLProgram, graph: CoreMLGraph) -> Alignment:
    """Returns the correspondence of an ML Program and the reference.

    Args:
        program: the ML Program.
        graph: the captured program, lowered without probabilities.
    """
    return _Aligner(program, graph).align()


class _Aligner:
    """Matches one program with one graph, and collects the fields of `Alignment`."""

    def __init__(self, program: MLProgram, graph: CoreMLGraph) -> None:
        self.program, self.graph = program, graph
        self.nodes: dict[str, Node] = {node.name: node for node in graph.exported.graph.nodes}
        self.producers = {output.name: operation for operation in program.operations for output in operation.outputs}
        self.types = {output.name: output.type for operation in program.operations for output in operation.outputs}
        self.types.update({entry.name: entry.type for entry in program.inputs})
        self.values = constant_values(graph.exported)
        self.anchors: dict[str, str] = {}
        self.halved: set[str] = set()
        self.folded: set[str] = set()
        self.known: set[str] = set()

    def align(self) -> Alignment:
        matched = self._match()
        if f"{PREFIX}version" in self.program.package.model.description.metadata.userDefined:
            self._anchor_names()
        for node, holders in matched.items():
            self._remember(node, holders)
            self._anchor_result(node, holders, matched)
        for node, holders in matched.items():
            self._anchor_data(node, holders[0].operation)
        self._anchor_outputs()
        order = {name: index for index, name in enumerate(self.producers)}
        anchors = tuple(
            Anchor(value, node, self.graph.modules.get(node, ""))
            for value, node in sorted(self.anchors.items(), key=lambda pair: order[pair[0]])
        )
        reached = {anchor.module for anchor in anchors}
        modules = dict.fromkeys(self.graph.modules[node.name] for node in self._expected())
        unmatched = tuple(module for module in modules if module not in reached)
        return Alignment(anchors, frozenset(self.halved), frozenset(self.folded), frozenset(self.known), unmatched)

    # Operations with weights

    def _holders(self) -> Iterator[_Holder]:
        for operation in self.program.operations:
            constants = tuple(self._constants(operation))
            if constants and not operation.is_constant:
                yield _Holder(operation, constants)

    def _constants(self, operation: Operation) -> Iterator[tuple[str, ValueType]]:
        for parameter in sorted(operation.inputs, key=_place):
            for argument in operation.inputs[parameter]:
                if not isinstance(argument, Named) or not self._is_constant(argument.name):
                    continue
                type_ = self.types[argument.name]
                if type_.dtype.startswith(("float", "bfloat")) and math.prod(_edges(type_)) > 1:
                    yield argument.name, type_

    def _appliers(self) -> Iterator[_Applier]:
        for node in self.graph.exported.graph.nodes:
            found = sources(node, self.values) if node.op == "call_function" and node not in self.values else []
            found = [source for source in found if self.values[source].numel() > 1]
            if found:
                names = {plain(name) for source in found for name in _origins(source)}
                yield _Applier(
                    node, tuple((source.name, self.values[source].numel()) for source in found), frozenset(names)
                )

    def _match(self) -> dict[Node, list[_Holder]]:
        """Returns the operations that hold the weights of each node, by node in order; without nodes that have none."""
        appliers, holders = list(self._appliers()), list(self._holders())
        pairs: dict[int, _Applier] = {}
        used: Counter[Node] = Counter()
        for find in (self._by_name(appliers, holders), self._by_content(appliers)):
            for index, holder in enumerate(holders):
                candidates = find(holder) if index not in pairs else []
                if candidates:
                    # A weight that several nodes share is met by them in the same order.
                    pairs[index] = min(candidates, key=lambda found: used[found.node])
                    used[pairs[index].node] += 1
        for index, applier in _by_order(holders, appliers, pairs):
            if self._resembles(holders[index], applier):
                pairs[index] = applier
        matched: dict[Node, list[_Holder]] = {applier.node: [] for applier in appliers}
        for index in sorted(pairs):
            matched[pairs[index].node].append(holders[index])
        return {node: found for node, found in matched.items() if found}

    def _by_name(self, appliers: list[_Applier], holders: list[_Holder]) -> _Finder:
        named = defaultdict(list)
        for applier in appliers:
            for name in applier.names:
                named[name].append(applier)
        # coremltools keeps equal constants once, under the name of the first: it says nothing of the other consumers.
        read = Counter(name for holder in holders for name, _ in holder.constants)
        return lambda holder: [
            found for name, _ in holder.constants if read[name] == 1 for found in named.get(plain(name), ())
        ]

    def _by_content(self, appliers: list[_Applier]) -> _Finder:
        values = {source.name: value for source, value in self.values.items() if value.is_floating_point()}
        weights = {name: Weight(_numpy(values[name])) for applier in appliers for name, _ in applier.sources}
        names = by_content(weights)

        def find(holder: _Holder) -> list[_Applier]:
            value = self._value(holder)
            found = set(names.get(content_key(value), ())) if value is not None else set()
            return [entry for entry in appliers if len(found) == 1 and found & {name for name, _ in entry.sources}]

        return find

    def _resembles(self, holder: _Holder, applier: _Applier) -> bool:
        """Returns whether the largest constant is like the largest weight by cosine, as a damaged copy of it is."""
        value = self._value(holder)
        if value is None:
            return True  # compressed: to be compared it would have to be expanded
        source = max(sources(applier.node, self.values), key=lambda entry: self.values[entry].numel())
        normalization = next((user for user in applier.node.users if folds_into(user) is applier.node), None)
        weight = np.squeeze(_numpy(self.values[source]))
        forms = [weight, weight.T] + ([fold(normalization, self.values)[0]] if normalization is not None else [])
        return any(cosine(value, form) > LIKENESS for form in forms)

    def _value(self, holder: _Holder) -> Array | None:
        """Returns the largest constant; None where it is compressed."""
        name, _ = max(holder.constants, key=lambda constant: math.prod(_edges(constant[1])))
        producer = self.producers[name]
        return producer.attributes["val"].decode() if producer.kind == "const" else None

    def _remember(self, node: Node, holders: list[_Holder]) -> None:
        """Notes the constants that are the node's weights, and those of the weights that are float16."""
        left = sources(node, self.values)
        for name, type_ in (constant for holder in holders for constant in holder.constants):
            size = math.prod(_edges(type_))
            source = next((entry for entry in left if self.values[entry].numel() == size), None)
            if source is not None:
                left.remove(source)
                self.known.add(name)
                if type_.dtype == "float16":
                    self.halved.add(source.name)

    # Anchors

    def _expected(self) -> Iterator[Node]:
        """Yields the nodes with weights, but for convolutions whose batch normalization is anchored in their place."""
        anchored = set(self.anchors.values())
        for applier in self._appliers():
            if not any(folds_into(user) is applier.node and user.name in anchored for user in applier.node.users):
                yield applier.node

    def _anchor_result(self, node: Node, holders: list[_Holder], matched: Mapping[Node, Any]) -> None:
        last = holders[-1]
        _, kinds, _ = _TARGETS.get(node.target, (_OTHER, frozenset(), False))
        if last.operation.kind not in kinds:
            return
        normalization = next((user for user in node.users if folds_into(user) is node), None)
        if normalization is not None and normalization not in matched:
            self.known.update(name for name, _ in last.constants)
            if all(type_.dtype == "float16" for _, type_ in last.constants):
                self.folded.add(normalization.name)
            self._anchor(last.operation.name, normalization)
        elif sum(len(holder.constants) for holder in holders) >= len(sources(node, self.values)):
            self._anchor(last.operation.name, node)

    def _anchor_data(self, node: Node, operation: Operation) -> None:
        """Anchors the input of an operation with weights, so that operations between two such are checked too."""
        kind, _, takes = _TARGETS.get(node.target, (_OTHER, frozenset(), False))
        if not takes or _KINDS.get(operation.kind) != kind:
            return
        arguments = [argument for name in ("x", "y") for argument in operation.inputs.get(name, ())]
        for argument in arguments:
            if isinstance(argument, Named) and not self._is_constant(argument.name):
                source: Any = node.args[0]
                self._anchor(self._before_cast(argument.name), source)
                return

    def _anchor_names(self) -> None:
        """Anchors every value that is named after a node."""
        for value, producer in self.producers.items():
            if producer.is_constant:
                continue
            name = _CAST.sub("", value)
            node = self.nodes.get(name) or self._part(name)
            made_up = node is not None and not self.graph.modules.get(node.name) and _COUNTED.match(name)
            if node is not None and node.op == "call_function" and not made_up:
                self._anchor(value, node)

    def _part(self, name: str) -> Node | None:
        """Returns the node that takes one of several results, by the name that coremltools gives such a result."""
        stem, _, index = name.rpartition("_")
        several = self.nodes.get(stem)
        if several is None or not index.isdigit():
            return None
        return next((user for user in several.users if user.args[1:] == (int(index),)), None)

    def _anchor_outputs(self) -> None:
        """Anchors the outputs in their order, if the program has at least as many as the reference."""
        returned: Any = self.nodes["output"].args[0]
        tensors = [name for name in self.program.outputs if self.types[name].shape is not None]
        if len(tensors) >= len(returned):
            for value, node in zip(tensors, returned, strict=False):
                self._anchor(value, node)

    def _anchor(self, value: str, node: Node) -> None:
        """Notes a pair, unless its shapes differ by more than dimensions of one, or either has an anchor already.

        Integers are not compared: coremltools is free to shift them with their zero point.
        """
        if value not in self.producers or value in self.anchors or node.name in self.anchors.values():
            return
        if not self.types[value].dtype.startswith(("float", "bfloat")):
            return
        if node.op != "call_function" or node in self.values:
            return
        found = node.meta.get("val")
        found = found[0] if isinstance(found, (tuple, list)) else found
        shape = tuple(getattr(found, "shape", ()))
        if _without_ones(self.types[value].shape or ()) == _without_ones(shape):
            self.anchors[value] = node.name

    def _is_constant(self, name: str) -> bool:
        return name in self.producers and self.producers[name].is_constant

    def _before_cast(self, name: str) -> str:
        """Returns the value that a chain of casts begins with."""
        producer = self.producers.get(name)
        while producer is not None and producer.kind == "cast" and isinstance(source := producer.inputs["x"][0], Named):
            name, producer = source.name, self.producers.get(source.name)
        return name


def _by_order(
    holders: list[_Holder], appliers: list[_Applier], pairs: Mapping[int, _Applier]
) -> Iterator[tuple[int, _Applier]]:
    """Yields further pairs, by the order of tokens between the pairs that are known already."""
    named = {applier.node for applier in pairs.values()}
    theirs = [("=", pairs[i].node.name) if i in pairs else holder.token for i, holder in enumerate(holders)]
    ours = [("=", applier.node.name) if applier.node in named else applier.token for applier in appliers]
    matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
    for start, other, length in matcher.get_matching_blocks():
        for offset in range(length):
            if start + offset not in pairs:
                yield start + offset, appliers[other + offset]


def _numpy(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy())


def _origins(source: Node) -> Iterator[str]:
    """Yields the node's own name, and the names of parameters of the same size that it is computed from."""
    yield source.name
    for node in source.all_input_nodes:
        if _numel(node) == _numel(source):
            yield from _origins(node)


def _numel(node: Node) -> int:
    value = node.meta.get("val")
    return value.numel() if isinstance(value, Tensor) else 0


def _place(parameter: str) -> tuple[int, str]:
    order = ("weight", "gamma", "bias", "beta", "mean", "variance")
    return (order.index(parameter) if parameter in order else len(order), parameter)


def _edges(type_: ValueType) -> tuple[int, ...]:
    return tuple(edge or 0 for edge in type_.shape or ())


def _without_ones(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return tuple(edge for edge in shape if edge != 1)
