# SPDX-License-Identifier: Apache-2.0
"""The options of a build with the classic TensorRT: what each needs of the installed version, and what it sets.

An option that the version lacks is refused by name; none is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from vitedge.errors import BadRecipe
from vitedge.export.tensorrt.request import EngineRequest
from vitedge.export.tensorrt.timing_cache import use_timing_cache

Value = int | bool | str


@dataclass(frozen=True)
class Build:
    """A build before it starts."""

    trt: ModuleType
    """The package ``tensorrt``."""
    builder: Any
    """Its ``Builder``."""
    config: Any
    """Its ``IBuilderConfig``."""
    request: EngineRequest


@dataclass(frozen=True)
class Option:
    """One option of a build."""

    kind: type
    """Type of its values."""
    member: str = ""
    """Member of the API that it needs, ``CLASS.NAME``, whatever its value."""
    choices: Mapping[Value, str] = field(default_factory=dict)
    """Value to the member that it needs, or to an empty string; no other value is taken. Empty takes every value."""
    apply: Callable[[Build, Any], None] = lambda _build, _value: None
    """Sets a value; an option of the network's creation has nothing to set."""


def _workspace(build: Build, mib: int) -> None:
    build.config.set_memory_pool_limit(build.trt.MemoryPoolType.WORKSPACE, mib << 20)


def _optimization_level(build: Build, level: int) -> None:
    build.config.builder_optimization_level = level


def _flag(name: str) -> Callable[[Build, bool], None]:
    def apply(build: Build, value: bool) -> None:  # noqa: FBT001 - the value of the option
        if value:
            build.config.set_flag(getattr(build.trt.BuilderFlag, name))

    return apply


def _hardware(build: Build, value: str) -> None:
    level = OPTIONS["hardware_compatible"].choices[value].partition(".")[2]
    build.config.hardware_compatibility_level = getattr(build.trt.HardwareCompatibilityLevel, level)


def _dla(build: Build, core: int) -> None:
    """Builds for a core of the Deep Learning Accelerator; layers that it cannot compute go to the GPU."""
    there = build.builder.num_DLA_cores
    if not 0 <= core < there:
        raise BadRecipe(f"The option dla_core {core} does not exist on this device, which has {there} DLA cores.")
    build.config.default_device_type = build.trt.DeviceType.DLA
    build.config.DLA_core = core
    build.config.set_flag(build.trt.BuilderFlag.GPU_FALLBACK)


def _timing_cache(build: Build, given: str) -> None:
    use_timing_cache(build.config, given, build.trt.__version__)


def _external_libraries(build: Build, value: bool) -> None:  # noqa: FBT001 - the value of the option
    """Leaves kernels of cuBLAS and cuDNN out of the choice; since 11 there are none."""
    if not value:
        sources = build.config.get_tactic_sources()
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
            source = getattr(build.trt.TacticSource, name, None)
            sources &= ~(0 if source is None else 1 << int(source))
        build.config.set_tactic_sources(sources)


OPTIONS: Mapping[str, Option] = {
    "workspace_mib": Option(int, "IBuilderConfig.set_memory_pool_limit", apply=_workspace),
    "optimization_level": Option(int, "IBuilderConfig.builder_optimization_level", apply=_optimization_level),
    "timing_cache": Option(str, "IBuilderConfig.set_timing_cache", apply=_timing_cache),
    "sparse_weights": Option(
        bool, choices={True: "BuilderFlag.SPARSE_WEIGHTS", False: ""}, apply=_flag("SPARSE_WEIGHTS")
    ),
    "tf32": Option(bool, choices={True: "BuilderFlag.TF32", False: ""}, apply=_flag("TF32")),
    "version_compatible": Option(
        bool, choices={True: "BuilderFlag.VERSION_COMPATIBLE", False: ""}, apply=_flag("VERSION_COMPATIBLE")
    ),
    "hardware_compatible": Option(
        str,
        choices={
            "ampere": "HardwareCompatibilityLevel.AMPERE_PLUS",
            "same_capability": "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
        },
        apply=_hardware,
    ),
    "dla_core": Option(int, "IBuilderConfig.DLA_core", apply=_dla),
    "strongly_typed": Option(
        # Weak typing went with the flags of the precisions, in 11.
        bool,
        choices={True: "NetworkDefinitionCreationFlag.STRONGLY_TYPED", False: "BuilderFlag.FP16"},
    ),
    "external_libraries": Option(bool, "IBuilderConfig.set_tactic_sources", apply=_external_libraries),
}
"""Name in vitedge to the option.

``workspace_mib`` limits the memory for scratch data, ``timing_cache`` is a file (see `timing_cache.path_of`),
``sparse_weights`` uses sparse kernels where weights are 2:4 and the kernel is faster, ``tf32`` rounds the factors of
float32 products, ``version_compatible`` engines are loaded by later versions, ``hardware_compatible`` by other GPUs,
``dla_core`` is the number of a core of the accelerator, with the GPU for the rest, ``strongly_typed`` is what the file
says of types (the default where there is one), ``external_libraries`` False leaves cuBLAS and cuDNN out."""


def check_options(trt: ModuleType, options: Mapping[str, Value]) -> None:
    """Checks that every option exists, has a value that it takes, and is one that the installed version has.

    Args:
        trt: the package ``tensorrt``.
        options: name of `OPTIONS` to value.

    Raises:
        BadRecipe: one does not; the sentence has its name and the version.
    """
    check_values(options)
    for name, value in options.items():
        member = OPTIONS[name].choices.get(value, OPTIONS[name].member)
        if member and not has(trt, member):
            raise BadRecipe(
                f"TensorRT {trt.__version__} has no {member}, which the option {name} {value} needs: leave it out, or "
                "build with a version that has it."
            )


def check_values(options: Mapping[str, Value]) -> None:
    """Checks that every option exists and has a value that it takes, whatever the version.

    Args:
        options: name of `OPTIONS` to value.

    Raises:
        BadRecipe: one does not; the sentence has its name.
    """
    for name, value in options.items():
        option = OPTIONS.get(name)
        if option is None:
            raise BadRecipe(f"TensorRT's builder has no option {name!r}; choose from {', '.join(OPTIONS)}.")
        if type(value) is not option.kind or (option.choices and value not in option.choices):
            wanted = ", ".join(str(choice) for choice in option.choices) or f"a value of type {option.kind.__name__}"
            raise BadRecipe(f"The option {name} takes {wanted}, not {value!r}.")


def apply_options(build: Build) -> None:
    """Sets the options of a request, which `check_options` has checked."""
    for name, value in build.request.options.items():
        OPTIONS[name].apply(build, value)


def is_strongly_typed(trt: ModuleType, options: Mapping[str, Value]) -> bool:
    """Returns whether types are those of the file: where the version can, unless the options say otherwise."""
    return bool(options.get("strongly_typed", has(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED")))


def has(trt: ModuleType, member: str) -> bool:
    """Returns whether a package has a member, ``CLASS.NAME``."""
    owner, _, name = member.partition(".")
    return hasattr(getattr(trt, owner, None), name)
