# SPDX-License-Identifier: Apache-2.0
"""Lowering: one captured program to ONNX, Core ML and TensorRT."""
