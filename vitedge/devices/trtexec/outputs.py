# SPDX-License-Identifier: Apache-2.0
"""Computes the outputs of an engine with trtexec, for the comparison with its reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitedge.devices.transports.transport import quoted
from vitedge.devices.trtexec.folder import make_folder, read_text, send_inputs
from vitedge.devices.trtexec.options import shape_words
from vitedge.devices.trtexec.program import Trtexec
from vitedge.devices.trtexec.results import read_outputs
from vitedge.errors import BadRecipe

_OUTPUTS = "outputs.json"
_COPIES = "--includeDataTransfers"
"""Since 11 inputs and outputs are copied in every inference only where this asks for it."""
_ONCE = ("--iterations=1", "--duration=0", "--warmUp=0")


def outputs_of(
    program: Trtexec,
    engine: str,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    folder: str,
    dtypes: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the outputs of an engine for one batch, by name.

    Args:
        program: the trtexec of the device.
        engine: its path there.
        feeds: every input by name, of the type that the engine declares.
        folder: of the device, for inputs and outputs; it is made.
        dtypes: name of an output to NumPy's name of its type, which trtexec does not tell; float32 without. trtexec
            writes six digits of each number, whatever the type.

    Raises:
        BadRecipe: the engine does not take inputs of these names and shapes.
        DeviceFailed: trtexec or the device failed.
    """
    make_folder(program.transport, folder)
    program.transport.run(f"rm -f {quoted([f'{folder}/{_OUTPUTS}'])}")
    log = program.run(
        [
            f"--loadEngine={engine}",
            send_inputs(program.transport, folder, feeds),
            *shape_words({name: (array.shape,) for name, array in feeds.items()}, ("shapes",)),
            f"--exportOutput={_OUTPUTS}",
            *_ONCE,
            *([_COPIES] if program.takes(_COPIES) else []),
        ],
        folder,
        f"computing the outputs of {engine.rpartition('/')[2]}",
    )
    given = {name: array.shape for name, array in feeds.items()}
    if dict(log.inputs) != given:  # 8.2 reads a file of another size without a word
        raise BadRecipe(f"{engine.rpartition('/')[2]} takes the inputs {dict(log.inputs)}, not {given}.")
    return read_outputs(read_text(program.transport, f"{folder}/{_OUTPUTS}"), dtypes or {})
