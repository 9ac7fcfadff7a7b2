# SPDX-License-Identifier: Apache-2.0
"""What every key of a library's configuration means for a model, and the check that none is ignored in silence."""
