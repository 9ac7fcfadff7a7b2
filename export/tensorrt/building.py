# SPDX-License-Identifier: Apache-2.0
"""Builds an engine of TensorRT from an ONNX file, in a process of its own."""

from __future__ import annotations

import time
from dataclasses import replace

from vitedge import registry
from vitedge.errors import CheckFailed, OutputRefused
from vitedge.export.tensorrt.graph import OnnxGraph
from vitedge.export.tensorrt.process import BuilderProcess
from vitedge.export.tensorrt.products import match_products
from vitedge.export.tensorrt.records import EngineRecord
from vitedge.export.tensorrt.refusals import check_file
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest
from vitedge.export.tensorrt.sparsity import with_sparse_kernels
from vitedge.files.digest import hash_file
from vitedge.files.replacing import clear_debris, replacing_file
from vitedge.registry import Table
from vitedge.runtimes.cuda import gpu
from vitedge.runtimes.plan import LIBRARIES

_SYSTEMS = ("Linux", "Windows")
_ELSEWHERE = "NVIDIA publishes it for Linux and Windows; build the engine on one of these"
BUILDERS: Table = {
    "tensorrt-rtx": replace(
        LIBRARIES["tensorrt-rtx"],
        module="vitedge.export.tensorrt.rtx",
        systems=_SYSTEMS,
        otherwise=_ELSEWHERE,
    ),
    "tensorrt": replace(
        LIBRARIES["tensorrt"],
        module="vitedge.export.tensorrt.classic_builder",
        systems=_SYSTEMS,
        otherwise=_ELSEWHERE,
        hardware="vitedge.runtimes.cuda:gpu",
    ),
}
"""Builders of engines: modules with ``build(request)``, which returns the engine's bytes and a `BuiltEngine`. They are
imported by the process that builds, and by no other."""


def build(request: EngineRequest, builder: str = "tensorrt-rtx") -> EngineRecord:
    """Builds an engine and writes it in one step; where that fails, what was there before stays.

    Args:
        request: what to build; its progress is called from this thread.
        builder: a key of `BUILDERS`.

    Raises:
        MissingBackend: the builder's package is not installed, or it needs a GPU that is not here.
        BadRecipe: a target, a shape or an option that the builder does not take.
        UnreadableArtifact: the file is no ONNX model, or one that the builder does not read.
        CheckFailed: the file cannot be built for a target, or the builder crashed or took too long.
        OutputRefused: the engine cannot be written.
    """
    part = registry.usable(BUILDERS, builder)
    graph = check_file(request, builder)
    if builder == "tensorrt":
        request = with_sparse_kernels(request, graph, gpu().capability)
    if not request.out.parent.is_dir():
        raise OutputRefused(f"There is no folder {request.out.parent} to write {request.out.name} into.")
    clear_debris(request.out)
    digest, begin = hash_file(request.onnx), time.perf_counter()
    with replacing_file(request.out) as partial, BuilderProcess(part, request) as process:
        built = process.result("build", partial)
    if built is None:
        raise CheckFailed(f"{part.title} built nothing from {request.onnx}.")
    seconds = time.perf_counter() - begin
    return recorded(built, graph, builder, digest, seconds)


def recorded(built: BuiltEngine, graph: OnnxGraph, builder: str, digest: str, seconds: float) -> EngineRecord:
    """Returns the record of a built engine, with what its kernels make of the products of its ONNX file.

    Args:
        built: what its builder told.
        graph: of the ONNX file.
        builder: a key of `BUILDERS`.
        digest: SHA-256 of the ONNX file.
        seconds: wall time of the build.
    """
    products, attentions = match_products(graph, built.layers) if built.layers is not None else ((), ())
    return EngineRecord(
        builder=builder,
        version=built.version,
        targets=built.targets,
        shapes=built.shapes,
        options=built.options,
        onnx_sha256=digest,
        seconds=seconds,
        layers=built.layers,
        products=products,
        attentions=attentions,
    )
