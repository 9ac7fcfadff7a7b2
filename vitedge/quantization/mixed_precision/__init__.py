# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: the search for the layers that stay in float or get more bits."""
