# SPDX-License-Identifier: Apache-2.0
"""The verify kit: a folder with which a Mac runs a bundle's Core ML packages, and the import of its results."""
