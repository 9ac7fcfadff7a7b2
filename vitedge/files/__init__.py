# SPDX-License-Identifier: Apache-2.0
"""Files: bundles, digests, writing in one step, records as plain values, headers of arrays."""
