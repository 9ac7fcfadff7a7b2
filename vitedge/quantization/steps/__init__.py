# SPDX-License-Identifier: Apache-2.0
"""Steps that rewrite a float program's tensors so that it computes the same and loses less by rounding.

Every step is a module with the verb ``apply(structure, inputs, precision)``: it edits the tensors of the structure's
program, updates the calibration statistics ``inputs`` without another pass over the images, and returns a record of
each change that it tried.
"""
