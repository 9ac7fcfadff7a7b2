# SPDX-License-Identifier: Apache-2.0
"""Building the reference: timm modules from a spec, at any image size."""
