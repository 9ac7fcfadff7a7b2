# SPDX-License-Identifier: Apache-2.0
"""Core ML's ML Programs on any machine: read from the package itself, computed op by op on PyTorch.

Reading needs neither coremltools' own import nor PyTorch; computing needs PyTorch.
"""

COMPUTE = ("declared", "fp32")
"""Modes of arithmetic: as declared, or in float32 throughout, which shows a program without its rounding."""
