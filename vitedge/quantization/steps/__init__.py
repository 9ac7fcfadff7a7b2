# SPDX-License-Identifier: Apache-2.0
"""Steps that leave what a float program computes as it is and make it easier to round.

Every step is a module with the verb ``apply(structure, inputs, precision)``: it edits the tensors of the structure's
program, keeps the observations ``inputs`` true without another pass over the images, and returns what it did.
"""
