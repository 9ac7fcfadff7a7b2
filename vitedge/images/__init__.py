# SPDX-License-Identifier: Apache-2.0
"""Images: sources, streams, labels and preprocessing."""
