# SPDX-License-Identifier: Apache-2.0
"""Core ML packages compared with the captured reference, layer by layer."""
