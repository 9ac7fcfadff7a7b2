# SPDX-License-Identifier: Apache-2.0
"""The verbs: a file a verb of the command line, each a function that returns a record."""
