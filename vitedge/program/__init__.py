# SPDX-License-Identifier: Apache-2.0
"""The captured program: one ``torch.export`` program of the reference, its editing, execution and structure."""
