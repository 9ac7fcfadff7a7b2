# SPDX-License-Identifier: Apache-2.0
"""The verify kit: a folder that a Mac runs a bundle's Core ML package in, and the results it brings back."""
