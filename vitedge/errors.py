# SPDX-License-Identifier: Apache-2.0
"""The errors of vitedge, and the exit codes of the command line for them.

::

    VitedgeError
    ├── UserError                   2   bad input or usage; one sentence, never a traceback
    │   ├── UnreadableCheckpoint        the file is not what its name or first bytes say, or is cut short
    │   ├── RefusedPickle               a pickle asks for something that could run code
    │   ├── UnknownArchitecture         no family fits the weights
    │   ├── WeightsMismatch             a weight is missing, left over, of another shape, or not finite
    │   ├── ImpossibleSize              the family cannot be rebuilt at that image size
    │   ├── BadImages                   the image folder is missing, empty or unreadable
    │   ├── UnusableActivations         the model computes NaN or infinity for the images, so activations have no range
    │   ├── BadRecipe                   an option or a recipe entry that does not exist or does not fit the others
    │   ├── UnreadableArtifact          a bundle or an artifact that cannot be opened as one
    │   ├── UnsupportedOperation        a Core ML package uses an operation that the mlprogram runtime does not know
    │   ├── HubUnreachable              timm:NAME or hf:NAME could not be fetched
    │   └── OutputRefused               the output exists, cannot be written, or the disk is full
    ├── MissingBackend              3   a package is not installed, or a target cannot be reached from this machine
    ├── CheckFailed                 4   parity, accuracy or a budget was not met
    │   ├── ToleranceExceeded           an artifact does not compute what the checkpoint computes
    │   └── BundleDamaged               a file of a bundle is not the one that its manifest describes
    └── DeviceFailed                5   the device refused or died
        └── ConnectionLost              the connection ended in the middle of something

Anything else that escapes is a bug of ours and keeps its traceback (exit code 1).
"""

from __future__ import annotations


class VitedgeError(Exception):
    """An error whose message is meant for the user: what happened, where, and what to type next."""

    exit_code = 1


class UserError(VitedgeError):
    """Bad input or usage."""

    exit_code = 2


class UnreadableCheckpoint(UserError):
    """The file is not what its name or first bytes say, or is cut short."""


class RefusedPickle(UnreadableCheckpoint):
    """A pickle asks for something that could run code."""


class UnknownArchitecture(UserError):
    """No family fits the weights."""


class WeightsMismatch(UserError):
    """A weight is missing, left over, of another shape, or not finite."""


class ImpossibleSize(UserError):
    """The family cannot be rebuilt at that image size."""


class BadImages(UserError):
    """The image folder is missing, empty or unreadable."""


class UnusableActivations(UserError):
    """The model computes NaN or infinity for the images, so activations have no range."""


class BadRecipe(UserError):
    """An option or a recipe entry that does not exist or does not fit the others."""


class UnreadableArtifact(UserError):
    """A bundle or an artifact that cannot be opened as one."""


class UnsupportedOperation(UserError):
    """A Core ML package uses an operation that the mlprogram runtime does not know."""


class HubUnreachable(UserError):
    """``timm:NAME`` or ``hf:NAME`` could not be fetched."""


class OutputRefused(UserError):
    """The output exists, cannot be written, or the disk is full."""


class MissingBackend(VitedgeError):
    """A package is not installed, or a target cannot be reached from this machine."""

    exit_code = 3


class CheckFailed(VitedgeError):
    """Parity, accuracy or a budget was not met."""

    exit_code = 4


class ToleranceExceeded(CheckFailed):
    """An artifact does not compute what the checkpoint computes."""


class BundleDamaged(CheckFailed):
    """A file of a bundle is not the one that its manifest describes."""


class DeviceFailed(VitedgeError):
    """The device refused or died."""

    exit_code = 5


class ConnectionLost(DeviceFailed):
    """The connection ended in the middle of something, which a new connection may go on with."""
