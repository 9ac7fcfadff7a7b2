# SPDX-License-Identifier: Apache-2.0
"""A file a command: its record becomes tables for people, or one JSON document. Only this folder prints."""
