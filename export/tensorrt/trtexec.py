# SPDX-License-Identifier: Apache-2.0
"""The command that builds an engine where its GPU is, for whoever has to type it there.

The options are those of ``trtexec`` by version (NVIDIA/TensorRT, ``samples/common/sampleOptions.cpp``): precision by
flags up to 8.x, the types of the file from 10 on.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from vitedge.export.tensorrt.request import Shape

_PROGRAMS: Mapping[str, str] = {"tensorrt": "trtexec", "tensorrt-rtx": "tensorrt_rtx"}
"""Builder to its command-line program."""
_TYPED_SINCE = 10
"""Major version of TensorRT from which a network can have the types of its file."""


def command(
    onnx: str,
    builder: str,
    versions: Sequence[str],
    shapes: Mapping[str, tuple[Shape, Shape, Shape]],
    *,
    quantized: bool,
    half: bool,
) -> str:
    """Returns the command, ready to be typed into a shell.

    Args:
        onnx: name of the file.
        builder: a key of `vitedge.export.tensorrt.building.BUILDERS`.
        versions: that the engine may be built with, the command being for the oldest.
        shapes: smallest, usual and largest shape of every input with a dynamic axis.
        quantized: whether the file has integers.
        half: whether what is not quantized should be computed in float16.
    """
    words = [_PROGRAMS[builder], f"--onnx={onnx}", f"--saveEngine={onnx.rpartition('.')[0]}.engine"]
    oldest = min(int(version.partition(".")[0]) for version in versions)
    if _PROGRAMS[builder] == "trtexec" and oldest >= _TYPED_SINCE:
        words.append("--stronglyTyped")
    elif _PROGRAMS[builder] == "trtexec":
        words += ["--int8"] * quantized + ["--fp16"] * (quantized or half)
    for name, sizes in shapes.items():
        for option, shape in zip(("min", "opt", "max"), sizes, strict=True):
            words.append(f"--{option}Shapes={name}:{'x'.join(map(str, shape))}")
    return shlex.join(words)
