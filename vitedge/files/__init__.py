# SPDX-License-Identifier: Apache-2.0
"""Files and what is written in them: records as plain values, headers of arrays."""
