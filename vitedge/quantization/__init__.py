# SPDX-License-Identifier: Apache-2.0
"""Quantization: turns a captured float32 program into one with quantize and dequantize nodes."""
