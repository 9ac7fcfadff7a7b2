# SPDX-License-Identifier: Apache-2.0
"""The embedded models and images, and the run of `vitedge demo` on them."""
