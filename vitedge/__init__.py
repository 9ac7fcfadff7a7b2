# SPDX-License-Identifier: Apache-2.0
"""Vision transformer checkpoints in, verified ONNX and Core ML out."""
