# SPDX-License-Identifier: Apache-2.0
"""ONNX: translation of the captured program, passes over the graph, the written file."""
