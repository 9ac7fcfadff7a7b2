# SPDX-License-Identifier: Apache-2.0
"""Names that trials and their readers share; nothing heavy is imported here. A part of the runner."""

from __future__ import annotations

WORKS, BROKEN, ABSENT, ELSEWHERE = "works", "broken", "absent", "elsewhere"
"""What a trial may end with: it is right, it failed, the library is not installed, this is no machine for it."""
BEGINS = "--- trial "
"""Line on the standard error before each trial, with its name."""
GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
PROVIDERS = (*GPU_PROVIDERS, "CoreMLExecutionProvider", "OpenVINOExecutionProvider", "XnnpackExecutionProvider")
"""Execution providers of ONNX Runtime that are tried where it lists them."""
