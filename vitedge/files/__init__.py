# SPDX-License-Identifier: Apache-2.0
"""Files: bundles, digests and writing in one step."""
