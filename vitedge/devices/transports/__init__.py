# SPDX-License-Identifier: Apache-2.0
"""Ways to devices: shell scripts run there, and files go there and back."""
