# SPDX-License-Identifier: Apache-2.0
"""The devices that models are measured on: a module a kind, each with one class `Session`; facts of this machine."""
