# SPDX-License-Identifier: Apache-2.0
"""Builds an engine with trtexec on the device that will run it; the engine stays there, and its record comes home."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitedge.devices.transports.transport import Transport, quoted
from vitedge.devices.trtexec.folder import make_folder, read_bytes, read_text
from vitedge.devices.trtexec.options import CACHE, build_words, is_strongly_typed, shape_words, skip_inference
from vitedge.devices.trtexec.program import Trtexec, find_trtexec
from vitedge.errors import CheckFailed, DeviceFailed, MissingBackend
from vitedge.export.onnx.artifact import describe
from vitedge.export.tensorrt.building import recorded
from vitedge.export.tensorrt.inspector import UNKNOWN, layers
from vitedge.export.tensorrt.records import EngineLayer, EngineRecord
from vitedge.export.tensorrt.refusals import check_file
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest, Shape
from vitedge.export.tensorrt.sparsity import with_sparse_kernels
from vitedge.export.tensorrt.timing_cache import path_of
from vitedge.files.digest import hash_listing
from vitedge.files.replacing import write_file
from vitedge.runtimes.cuda import Gpu
from vitedge.runtimes.plan import HEAD, parse_head

_BUILDER = "tensorrt"
_LAYERS = "layers.json"
_HEAD = "head.bin"
_LIMIT_S = 120.0


@dataclass(frozen=True)
class RemoteEngine:
    """An engine on a device."""

    path: str
    """There."""
    record: EngineRecord
    warnings: tuple[str, ...]
    """trtexec's own, in its words."""


def build(transport: Transport, request: EngineRequest, workdir: str, onnx_there: str = "") -> RemoteEngine:
    """Builds an engine from an ONNX file of this machine with the trtexec of a device.

    Args:
        transport: to the device.
        request: as for a build here; the engine is named after its ``out``, and is not copied there.
        workdir: a folder of the device, which is made, for the engine.
        onnx_there: the ONNX file's path on the device, its weights beside it; empty sends them to the workdir, where
            a later build finds them again.

    Raises:
        MissingBackend: the device has no trtexec, or another GPU than was asked for.
        BadRecipe: an option or a shape that does not fit, or that this version of trtexec lacks.
        UnreadableArtifact: the file is no ONNX model.
        CheckFailed: trtexec builds no engine from it; the sentence has trtexec's reason.
        DeviceFailed: the device or its GPU failed, or the build did not end in time.
    """
    program = find_trtexec(transport)
    gpu = program.gpu()
    if request.targets and gpu.capability not in request.targets:
        raise MissingBackend(
            f"trtexec builds for the GPU of its own machine, on {transport.name} {gpu.name} ({gpu.capability}), and "
            f"not for {', '.join(request.targets)}: build on such a machine, or leave the target out."
        )
    graph = check_file(request, _BUILDER)
    request = with_sparse_kernels(request, graph, gpu.capability)
    words = build_words(program, request.options, request.onnx)
    files = describe(request.onnx).files
    folder = f"{workdir}/{hash_listing(files)[:16]}"
    make_folder(transport, folder)
    for name in () if onnx_there else files:
        request.progress(f"sending {name} to {transport.name}")
        transport.send(request.onnx.parent / name, f"{folder}/{name}")
    cache = _send_cache(program, gpu, request, folder)
    request.progress(f"building with {program.title}")
    begin = time.perf_counter()
    warnings = _run(program, request, folder, (f"--onnx={onnx_there or request.onnx.name}", *words))
    seconds = time.perf_counter() - begin
    if cache is not None:
        write_file(cache, read_bytes(transport, f"{folder}/{CACHE}"))
    engine = request.out.name
    options = {"tf32": False, "strongly_typed": is_strongly_typed(program, request.options), **request.options}
    shapes: Mapping[str, tuple[Shape, ...]] = dict(request.shapes)
    kernels = _kernels(program, request, folder)
    built = BuiltEngine(_version(program, folder, engine), (gpu.capability,), shapes, options, kernels)
    record = recorded(built, graph, _BUILDER, files[request.onnx.name], seconds)
    return RemoteEngine(f"{folder}/{engine}", record, warnings)


def _run(program: Trtexec, request: EngineRequest, folder: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Has the engine built; returns trtexec's warnings."""
    engine = request.out.name
    made = quoted([f"{folder}/{name}" for name in (engine, _LAYERS)])
    program.transport.run(f"rm -f {made}")  # so that what is there afterwards is of this build
    log = program.run(
        [
            f"--saveEngine={engine}",
            skip_inference(program),
            "--profilingVerbosity=detailed",
            f"--exportLayerInfo={_LAYERS}",
            *shape_words(request.shapes, ("minShapes", "optShapes", "maxShapes")),
            *words,
        ],
        folder,
        f"building {engine} from {request.onnx.name}",
        request.limit_s,
        CheckFailed,
    )
    return log.warnings


def _kernels(program: Trtexec, request: EngineRequest, folder: str) -> tuple[EngineLayer, ...] | None:
    """Returns the kernels of the engine.

    The types of an engine with dynamic shapes are told for an execution context whose inputs have their shapes
    (NVIDIA's developer guide, "Engine Inspector"), which a build alone does not make: it is run once in the usual ones.
    """
    usual = {name: (sizes[1],) for name, sizes in request.shapes.items()}
    if usual:
        program.run(
            [
                f"--loadEngine={request.out.name}",
                *shape_words(usual, ("shapes",)),
                *("--iterations=1", "--duration=0", "--warmUp=0"),
                f"--exportLayerInfo={_LAYERS}",
            ],
            folder,
            f"loading {request.out.name}, which it had built",
            _LIMIT_S,
            CheckFailed,
        )
    found = layers(read_text(program.transport, f"{folder}/{_LAYERS}"))
    told = (kind for layer in found or () for kind in (*layer.inputs, *layer.outputs))
    return None if usual and UNKNOWN in told else found  # 8.2 lists the layers before there is a context


def _version(program: Trtexec, folder: str, engine: str) -> str:
    """Returns the version to the last part from the head of the engine; that of trtexec where the head tells none."""
    there = quoted([f"{folder}/{engine}"]), quoted([f"{folder}/{_HEAD}"])
    done = program.transport.run(f"head -c {HEAD} {there[0]} > {there[1]}")
    if done.code != 0:
        raise DeviceFailed(f"{program.title} says that it built {engine}, which is not there: {done.last_words}.")
    try:
        return parse_head(read_bytes(program.transport, f"{folder}/{_HEAD}")).version or program.version
    except ValueError as error:
        raise DeviceFailed(f"{program.title} wrote {engine}, which is no engine ({error}).") from error


def _send_cache(program: Trtexec, gpu: Gpu, request: EngineRequest, folder: str) -> Path | None:
    """Sends the timing cache of the GPU and the version, if there is one; returns its file here, None if not asked."""
    given = request.options.get("timing_cache")
    if given is None:
        return None
    path = path_of(str(given), gpu, program.version)
    program.transport.run(f"rm -f {quoted([f'{folder}/{CACHE}'])}")
    if path.exists():
        program.transport.send(path, f"{folder}/{CACHE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
