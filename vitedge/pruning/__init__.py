# SPDX-License-Identifier: Apache-2.0
"""Makes models smaller: fewer heads and units, 2:4 sparse weights, merged tokens."""
