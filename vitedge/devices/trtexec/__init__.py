# SPDX-License-Identifier: Apache-2.0
"""trtexec of TensorRT, 8.2 to 11, as the worker on a board that has no Python bindings of TensorRT."""
