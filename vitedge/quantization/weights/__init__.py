# SPDX-License-Identifier: Apache-2.0
"""Rounding of weights: a weight and statistics of the layer's input in, integers and quantization parameters out.

The methods are `nearest`, `gptq` and `adaround`, each with the one verb ``round_weight(weight, settings, inputs)``.
"""
