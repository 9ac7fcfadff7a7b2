# SPDX-License-Identifier: Apache-2.0
"""The verbs of the command line and of Python, a file a verb."""
