# SPDX-License-Identifier: Apache-2.0
"""The families of vision transformers: names, shapes and published variants to a `ModelSpec`."""
