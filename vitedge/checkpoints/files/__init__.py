# SPDX-License-Identifier: Apache-2.0
"""Files that hold weights: containers, pickles, folders and the hub, read without running code."""
