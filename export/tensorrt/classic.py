# SPDX-License-Identifier: Apache-2.0
"""Builds engines with the classic TensorRT, 8.5 to 11, through one thin adapter over its Python API.

The adapter asks the installed package by name for what it offers, because members come and go between versions and the
integers of its enums move (`classic_options` has the options). Which version has which member was read from the sources
of the Python bindings, tag by tag (NVIDIA/TensorRT, ``python/src``); the classic TensorRT itself was not run here.

A fault of the builder kills its process, so these functions are for a child process. Jetson Nano and TX2 stop at 8.2,
which only trtexec builds for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from vitedge.errors import BadRecipe, CheckFailed, MissingBackend, UnreadableArtifact
from vitedge.export.tensorrt.classic_options import Build, apply_options, check_options, has, is_strongly_typed
from vitedge.export.tensorrt.precision_flags import flags_for
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.tensorrt.timing_cache import keep_timing_cache
from vitedge.runtimes.cuda import gpu
from vitedge.runtimes.tensorrt_log import Log, logger, reason

Messages = list[tuple[str, str]]


def build(trt: ModuleType, request: EngineRequest, log: Log = lambda _severity, _text: None) -> bytes:
    """Builds an engine for the GPU of this machine.

    Args:
        trt: the package ``tensorrt``.
        request: the ONNX file, shapes and options; ``out`` and ``limit_s`` are the caller's.
        log: called with the severity and the text of every message of the builder.

    Returns:
        The engine as it goes into a file.

    Raises:
        BadRecipe: this version lacks an option, or an option or a shape does not fit the file.
        MissingBackend: the version is too old, or there is no GPU, or another one than was asked for.
        UnreadableArtifact: the file cannot be read by TensorRT's parser.
        CheckFailed: TensorRT reads the file and builds no engine.
    """
    _check_version(trt)
    check_options(trt, request.options)
    _check_targets(request)
    messages: Messages = []

    def keep(severity: str, text: str) -> None:
        messages.append((severity, text))
        log(severity, text)

    keeper = logger(trt, keep)
    builder = _builder(trt, keeper, messages)
    network = builder.create_network(_creation_flags(trt, request))
    parser = trt.OnnxParser(network, keeper)  # kept: the network uses the weights that it holds
    _parse(trt, parser, request.onnx)
    if network.num_outputs == 0:
        raise UnreadableArtifact(f"{request.onnx} has no outputs: it is empty, or no ONNX file.")
    config = _configure(Build(trt, builder, builder.create_builder_config(), request), network)
    monitor = _watch(trt, config, request)
    engine = builder.build_serialized_network(network, config)
    del monitor  # kept until here: whether the configuration keeps it depends on the version
    if engine is None:
        raise CheckFailed(f"TensorRT {trt.__version__} builds no engine from {request.onnx}: {reason(messages)}.")
    keep_timing_cache(config, request, trt.__version__)
    return bytes(engine)


def inspect(trt: ModuleType, engine: bytes, log: Log = lambda _severity, _text: None) -> str | None:
    """Returns what the engine inspector tells of an engine, as JSON; `vitedge.export.tensorrt.inspector` reads it.

    The types of an engine with dynamic shapes are told for an execution context whose inputs have their shapes
    (NVIDIA's developer guide, "Engine Inspector"): they get the usual ones of the first profile.

    Args:
        trt: the package ``tensorrt``.
        engine: an engine that was built in this process: code that it holds for the processor is allowed to run.
        log: as for `build`.

    Returns:
        The JSON; None where the engine cannot be loaded or tells nothing.
    """
    runtime = trt.Runtime(logger(trt, log))
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        return None
    inspector = loaded.create_engine_inspector()
    dynamic = list(_dynamic_inputs(loaded))
    if dynamic:
        context = loaded.create_execution_context()
        if context is None:
            return None
        for name in dynamic:
            context.set_input_shape(name, tuple(loaded.get_tensor_profile_shape(name, 0)[1]))
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return str(text) if text else None


def _check_version(trt: ModuleType) -> None:
    """Checks that a package has names of inputs and outputs, which came with 8.5.

    Raises:
        MissingBackend: it is older.
    """
    if not has(trt, "ICudaEngine.num_io_tensors"):
        raise MissingBackend(
            f"TensorRT {trt.__version__} is too old, 8.5 is the first that vitedge drives: build with its own trtexec "
            "--onnx=FILE.onnx --saveEngine=FILE.engine"
        )


def _check_targets(request: EngineRequest) -> None:
    """Checks that the engine is asked for the GPU of this machine: the classic builder times kernels on it.

    Raises:
        MissingBackend: it is not, or there is none.
    """
    here = gpu()
    if request.targets and here.capability not in request.targets:
        raise MissingBackend(
            f"TensorRT builds for the GPU of its own machine, here {here.name} ({here.capability}), and not for "
            f"{', '.join(request.targets)}: build on such a machine, or leave the target out."
        )


def _builder(trt: ModuleType, keeper: Any, messages: Messages) -> Any:
    try:
        return trt.Builder(keeper)
    except TypeError as error:  # pybind11's answer to a null pointer
        raise MissingBackend(
            f"TensorRT {trt.__version__} cannot use the GPU of this machine: {reason(messages)}."
        ) from error


def _creation_flags(trt: ModuleType, request: EngineRequest) -> int:
    """Returns the flags of a network: explicit batch until it went without saying, strong typing where there is one."""
    names = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if is_strongly_typed(trt, request.options) else [])]
    flags = [getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in names]
    return sum(1 << int(flag) for flag in flags if flag is not None)


def _parse(trt: ModuleType, parser: Any, onnx: Path) -> None:
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = f"{_place(errors[0])}{' '.join(errors[0].desc().split()).rstrip('.')}" if errors else "it gives no reason"
    raise UnreadableArtifact(f"TensorRT {trt.__version__} cannot read {onnx}: {told}.")


def _place(error: Any) -> str:
    """Returns the node of a parser's error, whose name is there since 9, or its number."""
    if hasattr(error, "node_name") and error.node_name():
        return f"{error.node_name()} ({error.node_operator()}): "
    return f"node {error.node()}: " if error.node() >= 0 else ""


def _configure(build: Build, network: Any) -> Any:
    """Returns the configuration of a build: options, precisions and shapes."""
    trt, config, request = build.trt, build.config, build.request
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 rounds the factors of float32 products to ten bits, and is on by default: it has to be asked for.
    config.clear_flag(trt.BuilderFlag.TF32)
    if not is_strongly_typed(trt, request.options):
        for flag in flags_for(trt, request.onnx):
            config.set_flag(flag)
    apply_options(build)
    _add_profile(build, network)
    return config


def _add_profile(build: Build, network: Any) -> None:
    """Gives every dynamic input its smallest, usual and largest shape."""
    request = build.request
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {tensor.name for tensor in inputs if any(side < 0 for side in tensor.shape)}
    if dynamic != request.shapes.keys():
        raise BadRecipe(
            f"{request.onnx} has the dynamic inputs {', '.join(sorted(dynamic)) or 'none'}, and shapes were given for "
            f"{', '.join(sorted(request.shapes)) or 'none'}."
        )
    if not dynamic:
        return
    profile = build.builder.create_optimization_profile()
    for name, shapes in request.shapes.items():
        try:
            profile.set_shape(name, *shapes)
        except ValueError as error:
            raise BadRecipe(f"{request.onnx} does not take {name} in the shapes {shapes}: {error}.") from error
    if build.config.add_optimization_profile(profile) < 0:
        raise BadRecipe(f"{request.onnx} does not take the shapes {dict(request.shapes)}.")


def _dynamic_inputs(engine: Any) -> Iterator[str]:
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name).name == "INPUT" and min(engine.get_tensor_shape(name), default=0) < 0:
            yield name


def _watch(trt: ModuleType, config: Any, request: EngineRequest) -> Any:
    """Has the names of the phases of a build handed on, without those of single nodes, where the version tells them.

    Returns:
        The monitor, to be kept until the engine is built; None where there is none.
    """
    if not has(trt, "IBuilderConfig.progress_monitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()  # pybind11 refuses an object whose base was not initialized

        def phase_start(self, phase: str, parent: str | None, _steps: int) -> None:
            if parent is None or parent.startswith("Building"):
                request.progress(phase)

        def phase_finish(self, _phase: str) -> None:
            pass

        def step_complete(self, _phase: str, _step: int) -> bool:
            return True  # go on

    config.progress_monitor = monitor = Monitor()
    return monitor
