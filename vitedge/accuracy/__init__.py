# SPDX-License-Identifier: Apache-2.0
"""Accuracy on labelled images: metrics, counting and records."""
