# SPDX-License-Identifier: Apache-2.0
"""Half precision: which modules stay in float32, by range and by rounding noise."""
