# SPDX-License-Identifier: Apache-2.0
"""The classic TensorRT as a builder of engines, for the GPU of this machine.

Like `vitedge.export.tensorrt.rtx` it is imported by the process that builds, and by no other. It was not run with a
real TensorRT: what it calls was tried on stand-ins with the members of each version.
"""

from __future__ import annotations

import tensorrt as trt

from vitedge.export.tensorrt import classic
from vitedge.export.tensorrt.classic_options import is_strongly_typed
from vitedge.export.tensorrt.inspector import layers
from vitedge.export.tensorrt.request import BuiltEngine, EngineRequest
from vitedge.runtimes.cuda import gpu
from vitedge.runtimes.plan import parse_head


def build(request: EngineRequest) -> tuple[bytes, BuiltEngine]:
    """Builds an engine in this process; returns its bytes and what is known of it.

    Raises:
        BadRecipe: an option that this version lacks, or a shape that does not fit.
        MissingBackend: the version is too old, or there is no GPU, or another one than was asked for.
        UnreadableArtifact: the parser refuses the file.
        CheckFailed: TensorRT reads the file and builds no engine.
    """
    engine = classic.build(trt, request)
    options = {"tf32": False, "strongly_typed": is_strongly_typed(trt, request.options), **request.options}
    kernels = layers(classic.inspect(trt, engine))
    version = parse_head(engine).version or trt.__version__
    return engine, BuiltEngine(version, (gpu().capability,), dict(request.shapes), options, kernels)
