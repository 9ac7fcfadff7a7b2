# SPDX-License-Identifier: Apache-2.0
"""A recording stand-in of the package ``tensorrt``: exactly the members of one version, and none of its computing.

Members come from ``tests/export/tensorrt/api_members.json``; another one is an AttributeError, as with the package. The
integers of enums are not the version's: code that does not go by names shows. ``ILogger`` and ``trt.float32`` and their
like are bound in another way and are not in the table. An engine of the stand-in doubles its input: its execution works
on addresses, so it needs memory of the stand-in of the CUDA driver.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_TABLE = json.loads((Path(__file__).parent / "export" / "tensorrt" / "api_members.json").read_text(encoding="utf-8"))
VERSIONS: tuple[str, ...] = tuple(_TABLE["versions"])
ENGINE = b"ftrt" + bytes(20) + bytes((10, 3, 0, 26)) + b"engine of the stand-in"

_ENUMS = (
    *("BuilderFlag", "DataType", "DeviceType", "HardwareCompatibilityLevel", "LayerInformationFormat"),
    *("MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "Severity", "TacticSource"),
    *("TensorIOMode", "TensorLocation"),
)


@dataclass
class Situation:
    """What the stand-in meets, and a record of what was done with it."""

    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (1, 4)})
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"y": (1, 4)})
    profile: tuple[tuple[int, ...], ...] = ()
    """Smallest, usual and largest shape of every input of the engine that is loaded."""
    dtype: str = "FLOAT"
    location: str = "DEVICE"
    dla_cores: int = 0
    parse_error: str = ""
    build_error: str = ""
    load_error: str = ""
    run_error: str = ""
    no_gpu: bool = False
    no_memory: bool = False
    cache_fits: bool = True
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    """Class, member and arguments or value, in order."""

    def named(self, member: str) -> list[tuple[Any, ...]]:
        """Returns the arguments or values of every use of a member."""
        return [call[2:] for call in self.calls if call[1] == member]


def members(version: str, owner: str) -> set[str]:
    """Returns the members of a class in a version."""
    place = VERSIONS.index(version)
    return {name for name, there in _TABLE["classes"][owner].items() if there[place] == "1"}


def stand_in(version: str, situation: Situation) -> Any:
    """Returns a module in place of ``tensorrt``."""
    trt = ModuleType("tensorrt")
    trt.__version__ = version  # type: ignore[attr-defined]
    for name in _TABLE["classes"]:
        there = members(version, name)
        if name in _ENUMS and there:
            setattr(trt, name, enum.IntEnum(name, sorted(there)))  # type: ignore[misc]
        elif there:
            setattr(trt, name, _class(name, there, situation))
    trt.ILogger = type("ILogger", (), {})  # type: ignore[attr-defined]
    _Behaviour(trt, situation).install()
    return trt


def _class(name: str, there: set[str], situation: Situation) -> type:
    """Returns a class whose attributes can be set and read if the version has them, and are recorded."""

    def set_member(self: Any, member: str, value: Any) -> None:
        if not member.startswith("_"):
            if member not in there:
                raise AttributeError(f"{name} has no {member}")
            situation.calls.append((name, member, value))
        object.__setattr__(self, member, value)

    body: dict[str, Any] = dict.fromkeys(there)
    if name != "IProgressMonitor":  # subclassed by the caller, who may give his object attributes
        body["__setattr__"] = set_member
    return type(name, (), body)


class _Behaviour:
    """What the members that vitedge uses do; a version that lacks a member does not get it here."""

    def __init__(self, trt: Any, situation: Situation) -> None:
        self.trt, self.situation = trt, situation
        self.logger: Any = None

    def install(self) -> None:
        self.network = self._make("INetworkDefinition")
        self._methods(
            "Builder",
            **{
                name: getattr(self, f"_{name}")
                for name in (
                    "create_network",
                    "create_builder_config",
                    "create_optimization_profile",
                    "build_serialized_network",
                )
            },
        )
        self._methods(
            "IBuilderConfig",
            set_flag=self._nothing,
            clear_flag=self._nothing,
            set_memory_pool_limit=self._nothing,
            add_optimization_profile=lambda _profile: 0,
            create_timing_cache=self._create_timing_cache,
            get_timing_cache=self._timing_cache,
            set_timing_cache=lambda _cache, ignore_mismatch: self.situation.cache_fits,
            get_tactic_sources=lambda: (1 << 16) - 1,
            set_tactic_sources=self._nothing,
        )
        self._methods("IOptimizationProfile", set_shape=self._set_shape)
        self._methods(
            "OnnxParser",
            parse_from_file=lambda _path: not self.situation.parse_error,
            get_error=lambda _index: self._make("ParserError"),
        )
        self._methods(
            "ParserError",
            desc=lambda: self.situation.parse_error,
            node=lambda: 7,
            node_name=lambda: "blocks.0.attn.qkv/MatMul",
            node_operator=lambda: "MatMul",
        )
        self._methods("INetworkDefinition", get_input=self._get_input)
        self._methods("ITimingCache", serialize=lambda: b"measured")
        self._methods("Runtime", deserialize_cuda_engine=self._deserialize)
        names = [*self.situation.inputs, *self.situation.outputs]
        shapes = {**self.situation.inputs, **self.situation.outputs}
        self._methods(
            "ICudaEngine",
            get_tensor_name=lambda index: names[index],
            get_tensor_shape=lambda name: shapes[name],
            get_tensor_dtype=lambda _name: self.trt.DataType[self.situation.dtype],
            get_tensor_location=lambda _name: self.trt.TensorLocation[self.situation.location],
            get_tensor_mode=lambda name: self.trt.TensorIOMode["INPUT" if name in self.situation.inputs else "OUTPUT"],
            get_tensor_profile_shape=lambda _name, _index: list(self.situation.profile),
            create_engine_inspector=lambda: self._make("EngineInspector"),
            create_execution_context=lambda: None if self.situation.no_memory else self._make("IExecutionContext"),
        )
        self._methods("EngineInspector", get_engine_information=lambda _kind: '{"Layers": []}')
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self._methods(
            "IExecutionContext",
            set_input_shape=self._set_input_shape,
            get_tensor_shape=lambda name: self.shape if shapes[name][0] < 0 else shapes[name],
            set_tensor_address=self._set_tensor_address,
            execute_async_v3=self._execute,
        )
        for owner in ("Builder", "Runtime", "OnnxParser"):
            getattr(self.trt, owner).__init__ = self._starts(owner)

    def _methods(self, owner: str, **functions: Callable[..., Any]) -> None:
        kind = getattr(self.trt, owner)
        for name, function in functions.items():
            if hasattr(kind, name):
                setattr(kind, name, self._recorded(owner, name, function))

    def _recorded(self, owner: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def method(_self: Any, *arguments: Any, **keywords: Any) -> Any:
            self.situation.calls.append((owner, name, *arguments, *keywords.items()))
            return function(*arguments, **keywords)

        return method

    def _starts(self, owner: str) -> Callable[..., None]:
        def start(made: Any, *arguments: Any) -> None:
            self.logger = arguments[-1]
            if self.situation.no_gpu:
                self._error("Error Code 1: Cuda Runtime (CUDA initialization failure with error: 35)")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            if owner == "Builder":
                object.__setattr__(made, "num_DLA_cores", self.situation.dla_cores)
            if owner == "OnnxParser":
                object.__setattr__(made, "num_errors", int(bool(self.situation.parse_error)))

        return start

    def _make(self, owner: str) -> Any:
        made = getattr(self.trt, owner)()
        values = {
            "INetworkDefinition": {
                "num_inputs": len(self.situation.inputs),
                "num_outputs": len(self.situation.outputs),
            },
            "ICudaEngine": {"num_io_tensors": len(self.situation.inputs) + len(self.situation.outputs)},
        }
        for name, value in values.get(owner, {}).items():
            object.__setattr__(made, name, value)
        return made

    def _error(self, text: str) -> None:
        self.logger.log(self.trt.Severity.ERROR, text)

    def _nothing(self, *_arguments: Any) -> None:
        return None

    def _create_network(self, _flags: int) -> Any:
        return self.network

    def _create_builder_config(self) -> Any:
        return self._make("IBuilderConfig")

    def _create_optimization_profile(self) -> Any:
        return self._make("IOptimizationProfile")

    def _build_serialized_network(self, _network: Any, config: Any) -> bytes | None:
        if self.situation.build_error:
            self._error(self.situation.build_error)
            return None
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Timing node 3", "Timing graph nodes", 9)
            assert monitor.step_complete("Building Engine", 0) is True
            monitor.phase_finish("Building Engine")
        return ENGINE

    def _create_timing_cache(self, content: bytes) -> Any:
        assert isinstance(content, bytes)
        return self._timing_cache()

    def _timing_cache(self) -> Any:
        return self._make("ITimingCache")

    def _set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        if any(a > b for a, b in zip(shapes[0], shapes[2], strict=True)):
            raise ValueError("The profile is inconsistent")

    def _get_input(self, index: int) -> Any:
        tensor = self._make("ITensor")
        name = list(self.situation.inputs)[index]
        object.__setattr__(tensor, "name", name)
        object.__setattr__(tensor, "shape", self.situation.inputs[name])
        return tensor

    def _deserialize(self, _engine: bytes) -> Any:
        if self.situation.load_error:
            self._error(self.situation.load_error)
            return None
        return self._make("ICudaEngine")

    def _set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        assert isinstance(shape, tuple)
        self.shape = shape
        bounds = self.situation.profile
        return not bounds or all(a <= b <= c for a, b, c in zip(bounds[0], shape, bounds[2], strict=True))

    def _set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def _execute(self, stream: int) -> bool:
        assert stream != 0
        if self.situation.run_error:
            self._error(self.situation.run_error)
            return False
        count = int(np.prod(self.shape))
        kind = {"FLOAT": np.float32, "HALF": np.float16}[self.situation.dtype]
        size = count * np.dtype(kind).itemsize
        taken = np.frombuffer(ctypes.string_at(self.addresses["x"], size), kind)
        ctypes.memmove(self.addresses["y"], (2 * taken).astype(kind).tobytes(), size)
        return True
