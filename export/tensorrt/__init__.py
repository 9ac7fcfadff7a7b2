# SPDX-License-Identifier: Apache-2.0
"""TensorRT: what an ONNX file needs to be read and run fast by it."""
