# SPDX-License-Identifier: Apache-2.0
"""Where a model is measured: one module a kind of device, each with one class `Session`; this machine's own facts."""
