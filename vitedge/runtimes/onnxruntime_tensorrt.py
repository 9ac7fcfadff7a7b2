# SPDX-License-Identifier: Apache-2.0
"""An ONNX file in ONNX Runtime on TensorRT, by ONNX Runtime's own provider: all of the graph, or none of it."""

from __future__ import annotations

from vitedge.runtimes import onnxruntime


class Runtime(onnxruntime.Runtime):
    """One session on the GPU. See `vitedge.runtimes.base.Runtime`."""

    _provider = "TensorrtExecutionProvider"
