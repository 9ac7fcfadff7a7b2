# SPDX-License-Identifier: Apache-2.0
"""The `.pt2` file of a quantized program."""
