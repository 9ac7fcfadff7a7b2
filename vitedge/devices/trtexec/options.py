# SPDX-License-Identifier: Apache-2.0
"""The options of a build as a trtexec takes them: each in the way of its version, or refused by name.

Which version has which option was read from NVIDIA/TensorRT, ``samples/common/sampleOptions.cpp``, tag by tag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vitedge.devices.trtexec.program import Trtexec
from vitedge.errors import BadRecipe
from vitedge.export.tensorrt.classic_options import Value, check_values
from vitedge.export.tensorrt.precision_flags import FLAGS, element_types
from vitedge.export.tensorrt.request import Shape

Words = tuple[str, ...]
CACHE = "timing.cache"
"""Name of the timing cache in the folder of a build."""
_TYPED = "--stronglyTyped"
_WEAK = ("--fp16", "--int8")
"""What every version of weak typing has."""
_LEVELS: Mapping[Value, str] = {"ampere": "ampere+", "same_capability": "sameComputeCapability"}

_WAYS: Mapping[str, Callable[[Value], tuple[Words, ...]]] = {
    "workspace_mib": lambda mib: ((f"--memPoolSize=workspace:{mib}",), (f"--workspace={mib}",)),
    "optimization_level": lambda level: ((f"--builderOptimizationLevel={level}",),),
    "timing_cache": lambda _: ((f"--timingCacheFile={CACHE}",),),
    "sparse_weights": lambda value: (("--sparsity=enable",) if value else (),),
    "tf32": lambda value: (() if value else ("--noTF32",),),
    "version_compatible": lambda value: (("--versionCompatible",) if value else (),),
    "hardware_compatible": lambda level: ((f"--hardwareCompatibilityLevel={_LEVELS[level]}",),),
    "dla_core": lambda core: ((f"--useDLACore={core}", "--allowGPUFallback"),),
}
"""Option of `vitedge.export.tensorrt.classic_options.OPTIONS` to the ways of asking for a value, the first one that a
version has."""


def build_words(program: Trtexec, options: Mapping[str, Value], onnx: Path) -> Words:
    """Returns the options of trtexec for types and for what else a build is told.

    Args:
        program: gives the version.
        options: of an `EngineRequest`; float32 products are rounded to TF32 only where they say so.
        onnx: the file, whose element types a build with weak typing needs.

    Raises:
        BadRecipe: an option does not exist, or this version lacks it.
        UnreadableArtifact: the file is no ONNX file.
    """
    check_values(options)
    words = [*_types(program, options, onnx)]
    for name, value in {"tf32": False, **options}.items():
        if name in _WAYS:
            words += _way(program, name, value)
    if options.get("external_libraries") is False and "CUBLAS" in program.help:  # since 11 there are none
        words.append("--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN")
    return tuple(words)


def is_strongly_typed(program: Trtexec, options: Mapping[str, Value]) -> bool:
    """Returns whether types are those of the file: where the version can, unless the options say otherwise."""
    return bool(options.get("strongly_typed", _TYPED in program.options))


def skip_inference(program: Trtexec) -> str:
    """Returns the option with which a build ends where the engine is written."""
    return "--skipInference" if program.takes("--skipInference") else "--buildOnly"


def shape_words(shapes: Mapping[str, Sequence[Shape]], options: Sequence[str]) -> Words:
    """Returns options such as ``--minShapes=x:1x3,y:1`` for the shapes of dynamic inputs.

    Args:
        shapes: name of an input to its shapes, as many as there are options.
        options: names, such as ``minShapes``.

    Raises:
        BadRecipe: a name has a character that trtexec takes for its own.
    """
    for name in shapes:
        check_name(name)
    return tuple(
        f"--{option}=" + ",".join(f"{name}:{'x'.join(map(str, sizes[place]))}" for name, sizes in shapes.items())
        for place, option in enumerate(options)
        if shapes
    )


def check_name(name: str) -> None:
    """Checks that the name of a tensor can be given to trtexec, which splits lists at commas and drops quotes.

    Raises:
        BadRecipe: it cannot.
    """
    if set(name) & set(",'"):
        raise BadRecipe(f"trtexec cannot be told of the input {name}: rename it without commas and quotation marks.")


def _types(program: Trtexec, options: Mapping[str, Value], onnx: Path) -> Words:
    if is_strongly_typed(program, options):
        if _TYPED not in program.options:
            raise BadRecipe(
                f"{program.title} has no {_TYPED}, which the option strongly_typed needs: leave it out, or build with "
                "TensorRT 10 or newer."
            )
        return (_TYPED,) if program.takes(_TYPED) else ()  # since 11 it goes without saying
    if not program.takes(*_WEAK):
        raise BadRecipe(f"{program.title} builds with the types of the file alone: leave strongly_typed out.")
    found = element_types(onnx)
    words = tuple(f"--{flag.lower()}" for dtype, flag in FLAGS.items() if dtype in found)
    lacking = [word for word in words if not program.takes(word)]
    if lacking:
        raise BadRecipe(f"{program.title} has no {lacking[0]}, which the types of {onnx} need.")
    return words


def _way(program: Trtexec, name: str, value: Value) -> Words:
    """Returns the first way of asking for a value that the version has."""
    ways = _WAYS[name](value)
    way = next((words for words in ways if program.takes(*words)), None)
    if way is None or (name == "hardware_compatible" and _LEVELS[value] not in program.help):
        raise BadRecipe(
            f"{program.title} has no {ways[0][0]}, which the option {name} {value} needs: leave it out, or build with "
            "a version that has it."
        )
    return way
