# SPDX-License-Identifier: Apache-2.0
"""How fast a model runs: warm up until it settles, measure in turn in processes of their own, keep every sample."""
