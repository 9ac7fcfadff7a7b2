# SPDX-License-Identifier: Apache-2.0
"""Where an artifact is measured: one module a kind of device, with the same public names."""
