# SPDX-License-Identifier: Apache-2.0
"""Measures latency: warms up until the times settle, measures in turn in separate processes, keeps every sample."""
