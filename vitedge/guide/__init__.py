# SPDX-License-Identifier: Apache-2.0
"""The files by which a bundle explains itself: README.md, programs that run it, the names of its classes."""
