# SPDX-License-Identifier: Apache-2.0
"""The embedded models and images, and the job that `vitedge demo` runs on them."""
