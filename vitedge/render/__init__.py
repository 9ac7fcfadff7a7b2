# SPDX-License-Identifier: Apache-2.0
"""Renders records as tables for people, or as one JSON document: a file a command. Only this folder prints."""
