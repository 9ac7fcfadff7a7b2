# SPDX-License-Identifier: Apache-2.0
"""What runs an artifact: one small class a file, one verb."""
