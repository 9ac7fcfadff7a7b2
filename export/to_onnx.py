# SPDX-License-Identifier: Apache-2.0
"""Lowering to ONNX: one captured program becomes one checked file."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)

from vitedge.errors import CheckFailed
from vitedge.export.formats import ENGINE, FORMS, HALF_SCALES_SINCE
from vitedge.export.onnx import writer as onnx_writer
from vitedge.export.onnx.oldest_runtimes import oldest_runtimes
from vitedge.export.onnx.passes.batch_norm import fold_batch_norms
from vitedge.export.onnx.passes.bias_in_float import write_bias_in_float
from vitedge.export.onnx.passes.fold_constants import FoldConstantsPass
from vitedge.export.onnx.passes.graph import MODULES, Graph
from vitedge.export.onnx.passes.guard_float32 import guard_float32
from vitedge.export.onnx.passes.half import to_half
from vitedge.export.onnx.passes.infer_shapes import infer_shapes
from vitedge.export.onnx.passes.names import name_after_modules
from vitedge.export.onnx.passes.opset import check_opset, retarget
from vitedge.export.onnx.passes.pad_heads import pad_heads
from vitedge.export.onnx.passes.quantized import FOR_TENSORRT, LayOutIntegersPass, for_processors
from vitedge.export.onnx.passes.remove_expansions import remove_expansions
from vitedge.export.onnx.passes.transpose_weights import transpose_weights
from vitedge.export.onnx.passes.weight_only import CONTRIB, lay_out_expanded_weights, lay_out_weights
from vitedge.export.onnx.quantized_translation import needed_opset
from vitedge.export.onnx.skeleton import read_skeleton
from vitedge.export.onnx.translation import LAYER_NORMALIZATION_SINCE, translations
from vitedge.export.onnx.writer import WrittenFile, write_onnx
from vitedge.files.plain import to_dict
from vitedge.program.modules import block_outputs, innermost_module
from vitedge.program.program import Program
from vitedge.recipe import ResolvedRecipe
from vitedge.records import Artifact, TensorSpec
from vitedge.registry import UNINSTALLED, versions

DEFAULT_OPSET = 18
BATCH_SIZES = (1, 2, 5)
"""Sizes at which a dynamic batch is run before it is claimed."""
_BATCH_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference between a batch and its single images, relative to the largest output."""
_ROUNDED_BATCH_TOLERANCE = 5e-2
"""The same where layers are quantized: a product that is summed in another order may be rounded to the next integer."""
_LARGEST_COMPARED = 2**17
"""Elements of the largest initializer that is compared with the others, by copies of their contents: the masks of
shifted windows are compared, and no matrix of a large model is copied."""
PASSES = (
    IdentityEliminationPass(),
    FoldConstantsPass(),
    RemoveUnusedNodesPass(),
    remove_expansions,
    fold_batch_norms,
)
"""The passes over a translated graph, in order."""
WIDENING = (transpose_weights, infer_shapes, write_bias_in_float, pad_heads, infer_shapes)
"""The passes after that where heads of attention are widened."""
_EQUAL_CONSTANTS = DeduplicateInitializersPass(_LARGEST_COMPARED)
_FOR_PROCESSORS = (lay_out_weights, LayOutIntegersPass(for_processors), _EQUAL_CONSTANTS)
_EXPANDED = (lay_out_expanded_weights, *_FOR_PROCESSORS[1:])
LAYOUTS: Mapping[str, tuple[ir.passes.PassBase, ...]] = {
    "processor": _FOR_PROCESSORS,
    "coreml": _FOR_PROCESSORS,
    "tensorrt": (LayOutIntegersPass(FOR_TENSORRT), _EQUAL_CONSTANTS),
}
"""The passes after that, by the form of a quantized program."""
EXPANDED_LAYOUTS: Mapping[str, tuple[ir.passes.PassBase, ...]] = {
    **LAYOUTS,
    "processor": _EXPANDED,
    "coreml": _EXPANDED,
}
"""The same for runtimes that have no product of floats and packed weights of 8 bits."""
FLOAT32_ON_PROCESSORS = ("LayerNormalization", "Softmax")
"""Operators without a float16 kernel in ONNX Runtime 1.17 and 1.18, which put their parts in place of them and then
computed wrong numbers, up to NaN: its memory planner gave buffers away that were still read. Right with
``enable_mem_pattern`` and ``enable_cpu_mem_arena`` off; see ``benchmarks/runtime_versions.py``."""
LAST_PASSES = (
    CommonSubexpressionEliminationPass(),
    IdentityEliminationPass(),
    RemoveUnusedNodesPass(),
)
"""The passes once the precision is chosen. Equal nodes are merged only here: those of two modules may differ in it."""


def check_settings(recipe: ResolvedRecipe) -> None:
    """Refuses an opset that no file is written for, before any work is done.

    Raises:
        BadRecipe: with the opsets that can be had.
    """
    if recipe.opset is not None:
        check_opset(recipe.opset)


def lower(program: Program, recipe: ResolvedRecipe, out: Path, float32_modules: tuple[str, ...] = ()) -> Artifact:
    """Writes a program as ONNX.

    Args:
        program: what `vitedge.program.capture.capture` returned.
        recipe: its opset, precision, input and batch are read.
        out: where the model goes; weights beyond protobuf's limit go to ``<out>.data`` beside it.
        float32_modules: modules that stay in float32 when the precision is fp16.

    Returns:
        What was written; its paths are relative to the folder of ``out``.

    Raises:
        BadRecipe: the opset cannot be had, with those that can.
        CheckFailed: the file does not do what it claims at some batch size.
    """
    opset = recipe.opset or max(DEFAULT_OPSET, needed_opset(program.exported, half=recipe.is_half))
    check_opset(opset)
    graph = _translate(program, opset)
    with _quietly():
        widening = WIDENING if recipe.pad_heads else ()
        layouts = LAYOUTS if recipe.packed_weights else EXPANDED_LAYOUTS
        graph.run((*PASSES, *widening, *layouts[recipe.form]))
    if opset < LAYER_NORMALIZATION_SINCE:
        graph.notes.append(f"opset {opset} has no LayerNormalization: it is written as primitive operators")
    if recipe.form == ENGINE and opset < HALF_SCALES_SINCE and needed_opset(program.exported, half=True):
        graph.notes.append(f"opset {opset} has no float16 scales: what is not quantized is float32 in the file")
    if recipe.is_half:
        modules = (*float32_modules, *_in_float32(program, opset, recipe.form))
        to_half(graph, modules, () if recipe.form == ENGINE else FLOAT32_ON_PROCESSORS)
        if recipe.form == ENGINE:
            guard_float32(graph)
    with _quietly():
        graph.run(LAST_PASSES)
    retarget(graph, opset)
    name_after_modules(graph)
    _finish(graph, program, recipe, opset)
    files = write_onnx(graph.model, out, onnx_writer.ONE_FILE_LIMIT)
    artifact = _describe(graph, recipe, opset, files)
    written = _check_written(artifact, out, opset)
    return replace(artifact, oldest_runtimes=oldest_runtimes(written))


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter logs and warns about itself; none of it is for our user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _translate(program: Program, opset: int) -> Graph:
    # With gradients enabled the exporter traces attention twice by different paths, and its second trace rejects the
    # strides of the first.
    with torch.no_grad(), _quietly():
        exported = torch.onnx.export(
            program.exported,
            (),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=DEFAULT_OPSET,
            input_names=[spec.name for spec in program.inputs],
            output_names=[spec.name for spec in program.outputs],
            custom_translation_table=translations(opset),
        )
    if exported is None or exported.exported_program is None:
        raise RuntimeError("the exporter returned no program")
    for node in exported.model.graph:
        origin = node.meta.get("node")
        node.meta[MODULES] = (innermost_module(origin) if origin is not None else "",)
    values = {value.name: value for node in exported.model.graph for value in node.outputs}
    names = block_outputs(exported.exported_program, program.blocks)
    weights = frozenset((*program.exported.state_dict, *program.exported.constants))
    return Graph(exported.model, weights, {block: values[name] for block, name in names.items() if name in values})


def _in_float32(program: Program, opset: int, form: str) -> Iterator[str]:
    """Yields the modules that no file of half precision computes right in float16 at an opset, or in a runtime.

    Written as primitives, the squares of a normalization leave the range of float16 first of all.

    On processors, two kinds keep to float32, which x86 computes them in anyway. On Arm processors with half precision
    ONNX Runtime 1.24 to 1.29 refuses a file with a GELU in float16: it makes one operator of the primitives, and then
    has no kernel for it (microsoft/onnxruntime#32386). And a convolution in groups with several outputs each, as
    PiT's pooling, is wrong there in float16: 5 dB in ONNX Runtime 1.26 on a Cortex-A76 under qemu, 73 dB on a
    Cortex-A53, which has no half precision.
    """
    on_processors = FORMS[form].on_processors
    kinds = [torch.ops.aten.gelu.default] if on_processors else []
    if opset < LAYER_NORMALIZATION_SINCE:
        kinds.append(torch.ops.aten.layer_norm.default)
    for node in program.exported.graph.nodes:
        if node.target in kinds or (on_processors and _has_wide_groups(node)):
            yield innermost_module(node)


def _has_wide_groups(node: torch.fx.Node) -> bool:
    """Returns whether a node is a convolution in groups with several outputs each."""
    if node.target is not torch.ops.aten.conv2d.default:
        return False
    groups = node.args[6] if len(node.args) > 6 else 1
    weight: Any = node.args[1]
    return bool(groups != 1 and weight.meta["val"].shape[0] != groups)


def _finish(graph: Graph, program: Program, recipe: ResolvedRecipe, opset: int) -> None:
    """Shapes, metadata and the marks of the maker."""
    model = graph.model
    ClearMetadataAndDocStringPass()(model)
    model.graph.name = "vitedge"
    model.graph.metadata_props.clear()
    model.producer_name, model.producer_version = "vitedge", versions(("vitedge",)).get("vitedge", UNINSTALLED)
    model.functions.clear()
    for spec, value in zip(
        (*program.inputs, *program.outputs), (*model.graph.inputs, *model.graph.outputs), strict=True
    ):
        value.shape = ir.Shape(spec.shape)
    # What the exporter noted about values in between is stale after the passes, and breaks ONNX Runtime's own tools.
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape, value.type = None, None
    with _quietly():
        ShapeInferencePass()(model)
    model.metadata_props.clear()
    model.metadata_props.update(_metadata(graph, program, recipe, opset))


def _metadata(graph: Graph, program: Program, recipe: ResolvedRecipe, opset: int) -> dict[str, str]:
    entries: dict[str, Any] = {
        "vitedge.version": versions(("vitedge",)).get("vitedge", UNINSTALLED),
        "vitedge.opset": opset,
        "vitedge.precision": recipe.precision,
        "vitedge.preprocessing": to_dict(program.spec.preprocessing),
        "vitedge.labels": list(program.spec.labels),
        "vitedge.spec": to_dict(program.spec),
        "vitedge.recipe": to_dict(recipe),
        "vitedge.blocks": {block: value.name for block, value in graph.blocks.items()},
        "vitedge.notes": graph.notes,
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, sort_keys=True)
        for key, value in entries.items()
    }


def _describe(graph: Graph, recipe: ResolvedRecipe, opset: int, files: tuple[WrittenFile, ...]) -> Artifact:
    return Artifact(
        format="onnx",
        path=files[0].path.name,
        sha256=files[0].sha256,
        size=sum(file.size for file in files),
        precision=recipe.precision,
        target=f"opset {opset}",
        inputs=tuple(_spec(value) for value in graph.model.graph.inputs),
        outputs=tuple(_spec(value) for value in graph.model.graph.outputs),
        files={file.path.name: file.sha256 for file in files},
        blocks={block: str(value.name) for block, value in graph.blocks.items()},
        notes=tuple(dict.fromkeys(graph.notes)),
    )


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise RuntimeError(f"{value.name} has no shape or no type")
    shape = tuple(edge if isinstance(edge, int) else str(edge.value) for edge in value.shape)
    return TensorSpec(str(value.name), shape, str(value.dtype.numpy()))


def _check_written(artifact: Artifact, out: Path, opset: int) -> onnx.ModelProto:
    """Shows that the file is valid ONNX of that opset, and that a dynamic batch is one; returns it without weights.

    Raises:
        CheckFailed: with what it does not do.
    """
    written = read_skeleton(out).model
    try:
        onnx.checker.check_model(written, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"{out.name} is not valid ONNX: {error}.") from error
    found = {entry.domain: entry.version for entry in written.opset_import}
    found.pop(CONTRIB, None)
    if found != {"": opset}:
        raise CheckFailed(f"{out.name} should be of ONNX opset {opset} and is of {found}.")
    if any(isinstance(edge, str) for spec in artifact.inputs for edge in spec.shape):
        _check_batches(artifact, out)
    return written


def _check_batches(artifact: Artifact, out: Path) -> None:
    """Runs the file at every size of `BATCH_SIZES` and compares with the images one by one."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    (image,) = artifact.inputs
    shape = tuple(edge for edge in image.shape[1:] if isinstance(edge, int))
    noise = np.random.default_rng(0).normal(size=(max(BATCH_SIZES), *shape))
    images = (noise * 40 + 128).clip(0, 255).astype(np.uint8) if image.dtype == "uint8" else noise.astype(np.float32)
    names = [spec.name for spec in artifact.outputs]
    singles: list[list[Any]] = []
    for size in BATCH_SIZES:
        try:
            results = session.run(names, {image.name: images[:size]})
        except Exception as error:
            raise CheckFailed(f"{out.name} claims a dynamic batch and fails at {size}: {error}.") from error
        singles = singles or [session.run(names, {image.name: images[i : i + 1]}) for i in range(len(images))]
        for name, result, *each in zip(names, results, *singles[:size], strict=True):
            expected = np.concatenate(each)
            error_size = np.abs(result - expected).max() / max(np.abs(expected).max(), 1e-30)
            tolerance = _BATCH_TOLERANCE.get(artifact.precision, _ROUNDED_BATCH_TOLERANCE)
            if result.shape != expected.shape or not error_size <= tolerance:
                raise CheckFailed(
                    f"{out.name} claims a dynamic batch, and {name} at batch {size} differs from the single images"
                    f" by {error_size:.2g} of its largest value."
                )
