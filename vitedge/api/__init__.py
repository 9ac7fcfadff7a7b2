# SPDX-License-Identifier: Apache-2.0
"""The functions of `vitedge`: from what Python code has in memory to what the verbs take."""
