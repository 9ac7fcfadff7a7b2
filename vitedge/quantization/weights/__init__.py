# SPDX-License-Identifier: Apache-2.0
"""Rounding of weights: tensors and the statistics of what a layer reads in, integers and their grid out.

The methods are `nearest`, `gptq` and `adaround`, each with the one verb ``round_weight(weight, settings, inputs)``.
"""
