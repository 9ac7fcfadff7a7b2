# SPDX-License-Identifier: Apache-2.0
"""The oldest runtimes that compute an ONNX file right, by what was measured of the operators in it.

``benchmarks/runtime_versions.py`` runs files in the runtimes of many years and writes ``oldest_runtimes.json`` beside
this file: for each operator, with the version of its definition and its element types, the oldest release from which on
every release computes a file right that holds it. A file needs the newest of these. An operator that no measured file
holds makes the answer `UNKNOWN`; nothing is guessed from release notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto

TABLE = Path(__file__).with_name("oldest_runtimes.json")
UNKNOWN = "unknown"
"""A file holds something that was never measured."""
NO_RELEASE = "none"
"""A file holds something that no measured release of a runtime computes right."""
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Names of runtimes in sentences."""
PACKED, EXPANDED = "packed", "expanded"
"""The two ways to write a product of floats and integer weights; see `vitedge.recipe.ResolvedRecipe.packed_weights`."""

Releases = Mapping[str, str]
"""Name of a runtime to a release such as ``1.17``, or to `UNKNOWN` or `NO_RELEASE`."""

_KINDS = {
    TensorProto.FLOAT: "f32",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "f64",
    TensorProto.UINT8: "u8",
    TensorProto.INT8: "i8",
    TensorProto.UINT16: "u16",
    TensorProto.INT16: "i16",
    TensorProto.INT32: "i32",
    TensorProto.INT64: "i64",
    TensorProto.BOOL: "bool",
    TensorProto.UINT4: "u4",
    TensorProto.INT4: "i4",
}
_REDUCED = frozenset(("f16", "bf16", "i8", "u16", "i16", "u4", "i4"))
_ROUNDING = frozenset(("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"))
"""Types and operators of files that are not float32 throughout."""
_MARKS = ("bits", "block_size")
"""Attributes that choose a kernel; the value of ``bits`` does, and that there are blocks at all."""


def oldest_runtimes(model: ModelProto) -> dict[str, str]:
    """Returns the oldest release of each runtime that computes a model right.

    Args:
        model: a file, or its skeleton without weights.
    """
    known = _table()["operators"]
    found = [known.get(name, {}) for name in operators_of(model)]
    return {runtime: newest(runtime, (entry.get(runtime, UNKNOWN) for entry in found)) for runtime in releases()}


def operators_of(model: ModelProto) -> tuple[str, ...]:
    """Returns what a model asks of a runtime, sorted: its opset, its IR version, and its operators with their types.

    An operator is its name, the opset that defined it, the element types of its inputs and outputs (``?`` where the
    file does not say, ``_`` for an input that is left out), and what chooses its kernel. Those of a file that is
    float32 throughout are apart: its tolerance is one that rounding to fewer digits exceeds.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    kinds = {value.name: _KINDS.get(value.type.tensor_type.elem_type, "?") for value in values}
    kinds.update({tensor.name: _KINDS.get(tensor.data_type, "?") for tensor in graph.initializer})
    kinds[""] = "_"
    operators = {_named(node, opset, kinds) for node in graph.node}
    if _REDUCED.isdisjoint(kinds.values()) and _ROUNDING.isdisjoint(node.op_type for node in graph.node):
        operators = {f"{name} in float32" for name in operators}
    return tuple(sorted({f"opset {opset}", f"IR {model.ir_version}", *operators}))


def releases() -> Mapping[str, tuple[str, ...]]:
    """Returns the releases that were measured, oldest first, by the name of the runtime."""
    return {runtime: tuple(found) for runtime, found in _table()["releases"].items()}


def of_precision(precision: str, form: str, *, models: str = "all") -> Releases:
    """Returns the oldest releases that computed measured models of a precision right, in one form of its weights.

    Args:
        precision: of `vitedge.recipe.Precision`.
        form: `PACKED` or `EXPANDED`; a precision whose weights have one form has the first.
        models: whether ``all`` of the models have to be right, or ``some``.

    Returns:
        Empty where the precision was never measured in that form.
    """
    found: Releases = _table()["precisions"].get(precision, {}).get(form, {}).get(models, {})
    return found


def of_opset(opset: int) -> Releases:
    """Returns the oldest releases that read an opset; empty where none was measured."""
    found: Releases = _table()["operators"].get(f"opset {opset}", {})
    return found


def newest(runtime: str, needed: Iterator[str]) -> str:
    """Returns the release that all of several needs are met by."""
    order = (*releases()[runtime], UNKNOWN, NO_RELEASE)
    return max(needed, key=order.index)


def sentence(needed: Releases) -> str:
    """Returns the oldest releases as a phrase, such as ``computed right from ONNX Runtime 1.17 on``."""
    told = [f"{TITLES[name]} {found}" for name, found in needed.items() if found not in (UNKNOWN, NO_RELEASE)]
    untold = [TITLES[name] for name, found in needed.items() if found == UNKNOWN]
    never = [TITLES[name] for name, found in needed.items() if found == NO_RELEASE]
    parts = (
        f"computed right from {' and '.join(told)} on" if told else "",
        f"by no measured release of {' or '.join(never)}" if never else "",
        f"not measured in {' and '.join(untold)}" if untold else "",
    )
    return ", ".join(filter(None, parts))


def reaches(release: str, needed: str) -> bool:
    """Returns whether a release such as ``1.18.1`` is at least the one that is needed; not where that is unknown."""
    return needed not in (UNKNOWN, NO_RELEASE) and numbers(release) >= numbers(needed)


def numbers(release: str) -> tuple[int, ...]:
    """Returns the major and minor number of a release: what comes after them mends faults and adds nothing."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])


def _named(node: NodeProto, opset: int, kinds: Mapping[str, str]) -> str:
    own = node.domain in ("", "ai.onnx")
    name = f"{node.op_type}-{_since(node.op_type, opset)}" if own else f"{node.domain}:{node.op_type}"
    given, made = ([kinds.get(value, "?") for value in values] for values in (node.input, node.output))
    if own and _takes_any_number(node.op_type, opset):
        given = sorted(set(given))
    marks = [_mark(entry) for entry in node.attribute if entry.name in _MARKS]
    return " ".join((name, ",".join(given), "->", ",".join(made), *sorted(filter(None, marks))))


def _mark(entry: onnx.AttributeProto) -> str:
    return f"bits={entry.i}" if entry.name == "bits" else "blocks" if entry.i else ""


@cache
def _since(operator: str, opset: int) -> int:
    """Returns the opset that defined the form of an operator; 0 for one that ONNX does not have."""
    try:
        return int(onnx.defs.get_schema(operator, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


@cache
def _takes_any_number(operator: str, opset: int) -> bool:
    try:
        inputs = onnx.defs.get_schema(operator, opset, "").inputs
    except onnx.defs.SchemaError:
        return False
    return bool(inputs) and inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic


@cache
def _table() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found
