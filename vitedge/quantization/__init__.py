# SPDX-License-Identifier: Apache-2.0
"""Quantization: a captured program in float32 becomes one program with quantize and dequantize nodes."""
