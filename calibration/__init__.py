# SPDX-License-Identifier: Apache-2.0
"""Calibration: statistics of activations over images, the ranges that follow from them, and their cache."""
