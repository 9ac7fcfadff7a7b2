# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX as a builder of engines; needs no GPU.

It is imported by the process that builds (`vitedge.export.tensorrt.child`) and by no other: a fault in the builder ends
that process. The order of its calls is that of NVIDIA's documentation of TensorRT-RTX 1.x, ahead-of-time compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorrt_rtx as trt

from vitedge.errors import BadRecipe, CheckFailed, MissingBackend, VitedgeError
from vitedge.export.tensorrt.layers import read_layers
from vitedge.export.tensorrt.refusals import NO_DRIVER, compiler_sentence
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest, Shape
from vitedge.export.tensorrt.rtx_parser import Log, parse

OPTIONS: Mapping[str, tuple[bool, str]] = {"tf32": (False, "TF32")}
"""Name of an option to its default and the builder's flag. TensorRT's own default computes float32 products in TF32,
whose mantissa has 10 bits: what was asked for as float32 is not rounded so unless that is asked for too. The flag for
sparse weights is left out: with weights of 2:4 sparsity version 1.7 writes the same bytes with it and without."""


def build(request: EngineRequest) -> tuple[bytes, BuiltEngine]:
    """Builds an engine in this process; returns its bytes and what is known of it.

    Raises:
        BadRecipe: an option, a target or a shape that the builder does not take.
        UnreadableArtifact: the parser refuses the file.
        MissingBackend: the engine was asked for the GPU of this machine, and there is none with a driver.
        CheckFailed: the builder cannot compile the file for a target.
    """
    log = Log()
    builder = trt.Builder(log)
    network, _parser = parse(request, builder, log)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    targets = _set_targets(config, request.targets)
    options = _set_options(config, request.options)
    shapes = _set_shapes(builder, config, network, request.shapes)
    monitor = _Monitor(request.progress)  # kept in a variable: the configuration does not own it
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _failure(request, log)
    return bytes(engine), BuiltEngine(trt.__version__, targets, shapes, options, read_layers(log.messages))


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Passes the names of the builder's phases on."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress

    def phase_start(self, name: str, parent: str | None, _steps: int) -> None:
        """Called by the builder at the start of a phase, of which there are phases within phases."""
        if parent is None or parent.startswith("Building"):
            self._progress(name)

    def phase_finish(self, name: str) -> None:
        """Called by the builder at the end of a phase."""

    def step_complete(self, _name: str, _step: int) -> bool:
        """Called by the builder after every step; returns whether it should go on."""
        return True


def _targets() -> tuple[str, ...]:
    """Returns the compute capabilities that can be named."""
    members: Mapping[str, Any] = trt.ComputeCapability.__members__
    return tuple(name for name in members if name.startswith("SM"))


def _set_targets(config: Any, targets: tuple[str, ...]) -> tuple[str, ...]:
    unknown = sorted(set(targets) - set(_targets()))
    if unknown:
        raise BadRecipe(
            f"TensorRT-RTX {trt.__version__} does not build for {unknown[0]!r}; choose from {', '.join(_targets())}."
        )
    named = targets or ("CURRENT",)
    config.num_compute_capabilities = len(named)
    for index, target in enumerate(named):
        if not config.set_compute_capability(trt.ComputeCapability.__members__[target], index):
            raise BadRecipe(f"TensorRT-RTX {trt.__version__} refuses {target} in one engine with {', '.join(named)}.")
    return named


def _set_options(config: Any, asked: Mapping[str, int | bool | str]) -> dict[str, int | bool | str]:
    unknown = sorted(set(asked) - set(OPTIONS))
    if unknown:
        raise BadRecipe(f"TensorRT-RTX has no option {unknown[0]!r}; choose from {', '.join(OPTIONS)}.")
    used: dict[str, int | bool | str] = {}
    for name, (default, flag) in OPTIONS.items():
        used[name] = value = asked.get(name, default)
        if not isinstance(value, bool):
            raise BadRecipe(f"The option {name} of TensorRT-RTX is true or false, not {value!r}.")
        change = config.set_flag if value else config.clear_flag
        change(trt.BuilderFlag.__members__[flag])
    return used


def _set_shapes(
    builder: Any, config: Any, network: Any, asked: Mapping[str, tuple[Shape, Shape, Shape]]
) -> dict[str, tuple[Shape, ...]]:
    """Adds one optimization profile where an input is dynamic; returns the shapes of every input."""
    shapes: dict[str, tuple[Shape, ...]] = {}
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        if value.name in asked:
            shapes[value.name] = asked[value.name]
            profile.set_shape(value.name, *asked[value.name])
        else:
            shapes[value.name] = (tuple(value.shape),)
    if asked:
        config.add_optimization_profile(profile)
    return shapes


def _failure(request: EngineRequest, log: Log) -> VitedgeError:
    causes = [message for message in log.errors if NO_DRIVER not in message]
    if not causes and not request.targets:
        return MissingBackend(
            "TensorRT-RTX finds no NVIDIA driver, and so no GPU of this machine to build for; name the compute "
            f"capability, one of {', '.join(_targets())}."
        )
    return CheckFailed(compiler_sentence(request.onnx, causes[0] if causes else ""))
