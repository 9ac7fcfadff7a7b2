# SPDX-License-Identifier: Apache-2.0
"""The command line: a file a command, each of which parses its options, calls one verb and renders the record.

Nothing heavy is imported before a command runs; the imports inside the commands are the one lazy boundary.
"""
