# SPDX-License-Identifier: Apache-2.0
"""Runtimes, which run artifacts: one small class a file, one verb."""
