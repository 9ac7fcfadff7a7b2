# SPDX-License-Identifier: Apache-2.0
"""Checks a ``.pt2`` archive before PyTorch loads it, because loading can run code that the file contains.

PyTorch unpickles whatever an archive says is pickled, and hands the expressions of dynamic shapes to ``sympify``, which
evaluates them as Python. Nothing that vitedge writes needs more than tensors as bytes and products of symbols. The
archive is read by PyTorch's own reader, so that the bytes that are checked are those that will be loaded.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader

from vitedge.errors import RefusedPickle

_PROGRAM = "models/model.json"
_PAYLOADS = ("weights_config.json", "constants_config.json")
_KNOWN = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt)|models/model\.json|extra/[\w.]+|archive_format|archive_version|byteorder|version"
    r"|\.data/\w+"
)
"""Entries of an archive as ``torch.export.save`` writes it for one program of tensors."""
_WORD = re.compile(r"[^\W\d]\w*")
_WORDS = re.compile(r"Symbol|Integer|Mul|Add|Pow|positive|integer|nonnegative|True|False|s\d+|u\d+")
"""Words that an expression of a shape may consist of."""
_EXPRESSION = "expr_str"


def refuse_code(path: Path) -> None:
    """Refuses an archive that could run code when it is loaded.

    Args:
        path: the file.

    Raises:
        RefusedPickle: it could; names the entry.
        Exception: whatever PyTorch's reader raises on a damaged file.
    """
    reader = PT2ArchiveReader(str(path))
    names = reader.get_file_names()
    for name in names:
        if not _KNOWN.fullmatch(name):
            raise RefusedPickle(f"{path} holds {name}, which no quantized program contains; it was not read.")
        if names.count(name) > 1:
            raise RefusedPickle(f"{path} holds {name} twice, and one could hide the other; it was not read.")
        if name.endswith(_PAYLOADS):
            _refuse_pickled_payloads(path, json.loads(reader.read_string(name)))
        elif name.endswith(".pt"):
            _refuse_objects(path, name, reader.read_bytes(name))
    for expression in _expressions(json.loads(reader.read_string(_PROGRAM))):
        words = _WORD.findall(str(expression))
        odd = [word for word in words if not _WORDS.fullmatch(word)]
        if odd or "__" in str(expression):
            raise RefusedPickle(
                f"{path} has a shape that names {(odd or words)[0]}, which could run code; it was not read."
            )


def _refuse_pickled_payloads(path: Path, listing: dict[str, Any]) -> None:
    pickled = [name for name, payload in listing["config"].items() if payload.get("use_pickle")]
    if pickled:
        raise RefusedPickle(f"{path} holds {pickled[0]} as a pickle, which could run code; it was not read.")


def _refuse_objects(path: Path, name: str, content: bytes) -> None:
    """Refuses an entry that PyTorch cannot load as plain tensors; PyTorch itself would then unpickle it unsafely."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise RefusedPickle(f"{path} holds {name}, which could run code; it was not read.") from error


def _expressions(content: Any) -> Iterator[Any]:
    """Yields the expressions of shapes, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == _EXPRESSION:
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(content, list):
        for value in content:
            yield from _expressions(value)
