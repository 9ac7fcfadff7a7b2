# SPDX-License-Identifier: Apache-2.0
"""Graph passes over the ONNX intermediate representation: one idea a file, each alters the model in place."""
