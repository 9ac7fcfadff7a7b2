# SPDX-License-Identifier: Apache-2.0
"""Whether what is installed on a device works: it is tried in processes of its own, and breakages have names."""
