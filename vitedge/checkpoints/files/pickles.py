# SPDX-License-Identifier: Apache-2.0
"""Scans a pickle without running it, for the names it imports and the storages it declares.

PyTorch's own ``weights_only`` loader is what keeps code from running. This pass comes before it, because that loader
names only the first thing that it refuses, allocates what a file declares before it has seen whether the file holds it,
and hashes nested tuples of any depth. The opcodes are those of ``pickletools``, which documents the format.
"""

from __future__ import annotations

import _compat_pickle
import argparse
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy
import torch

from vitedge.errors import UnreadableCheckpoint
from vitedge.sentences import short

MOST_OPCODES = 250_000
"""A ViT-H with its average and the state of Adam takes about 50 000."""
MOST_BYTES = 64 * 2**20
"""Largest pickle, with all its strings; the tensors of a checkpoint lie outside of it."""
DEEPEST = 100
MOST_HASHED = 5_000_000


class _PlainMapping:
    """A stand-in for configuration classes that are dicts: only their entries are kept."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _PlainNamespace:
    """A stand-in for classes whose instances are nothing but their attributes."""


def _plain_path(*parts: object) -> str:
    return str(PurePosixPath(*(str(part) for part in parts)))


def _numpy_names() -> dict[str, Any]:
    multiarray = numpy.array(0).__reduce__()[0]
    scalar = numpy.float64(0).__reduce__()[0]
    names: dict[str, Any] = {"numpy.ndarray": numpy.ndarray, "numpy.dtype": numpy.dtype}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names |= {f"{module}._reconstruct": multiarray, f"{module}.scalar": scalar}
    # The loader checks the class of what it builds, and each dtype has one of its own.
    for code in "?bBhHiIlLqQefdSU":
        kind = type(numpy.dtype(code))
        names[f"numpy.dtypes.{kind.__name__}"] = kind
    return names


PLAIN: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": _PlainNamespace,
    **dict.fromkeys(
        (
            "collections.defaultdict",
            # The three that a defaultdict names as its factory; nothing is made with them.
            "builtins.dict",
            "builtins.list",
            "builtins.int",
            "yacs.config.CfgNode",
            "easydict.EasyDict",
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning.pytorch.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
        ),
        _PlainMapping,
    ),
    **{
        f"{module}.{kind}": _plain_path
        for module in ("pathlib", "pathlib._local")  # Python 3.13 names the second
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    **_numpy_names(),
}
"""Name of a harmless class in a pickle to its stand-in. No stand-in acts on the arguments that it is given."""

_TORCH = {
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    "builtins.set",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
"""Names that PyTorch's loader allows and that a state dict needs. The tensor classes are left out: called with a
number they allocate as many elements."""


_STORAGES = {
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "Untyped": 1,
    # Of quantized tensors; their names are still refused, and the storages only measured.
    "QInt8": 1,
    "QUInt8": 1,
    "QInt32": 4,
}


def item_size(storage: str) -> int | None:
    """Returns the bytes per element of a storage class such as ``torch.FloatStorage``; None if it is not one."""
    module, _, name = storage.rpartition(".")
    if module not in ("torch", "torch.cuda", "torch.storage") or not name.endswith("Storage"):
        return None
    return _STORAGES.get(name[: -len("Storage")])


def _is_allowed(name: str) -> bool:
    if name in PLAIN or name in _TORCH or (item_size(name) is not None and ".Q" not in name):
        return True
    return name.startswith("torch.") and isinstance(getattr(torch, name[len("torch.") :], None), torch.dtype)


@dataclass(frozen=True)
class Scan:
    """The names that a pickle imports and the storages that it declares."""

    refused: tuple[str, ...]
    """Imported names that are not allowed."""
    storages: dict[str, int]
    """Key of each storage to its size in bytes."""
    foreign: str
    """First opcode that PyTorch's loader does not know, or empty."""


class _Bounded:
    """A stream that refuses to read more than a pickle of weights has."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        self._left -= size
        return self._stream.read(size) if self._left >= 0 else b""

    def readline(self) -> bytes:
        return self._stream.readline(4096)


@dataclass
class _Node:
    """A value on the stack: the constant, name or short tuple itself, its depth of nesting, and number of leaves."""

    value: object = None
    depth: int = 1
    weight: int = 1


@dataclass(frozen=True)
class _Name:
    full: str


@dataclass
class _Machine:
    """A pickle machine that computes `_Node` values: each opcode has only its documented effect on the stack."""

    stack: list[_Node] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, _Node] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)
    hashed: int = 0
    foreign: str = ""

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        if name not in _KNOWN and not self.foreign:
            self.foreign = name
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name.endswith("PUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name.endswith("GET"):
            self.stack.append(self.memo[int(argument)])
        elif opcode.stack_after or opcode.stack_before:
            self._apply(opcode, argument)

    def _apply(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        items = self._pop(opcode)
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            self._ask(*str(argument).split(" ", 1))
        elif name == "STACK_GLOBAL":
            self._ask(str(items[0].value), str(items[1].value))
        elif name == "BINPERSID":
            self._declare(items[0])
            self.stack.append(_Node())
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD", "ADDITEMS"):
            self._fill(name, items)
        elif name == "DUP":
            self.stack += [items[0], items[0]]
        elif opcode.stack_after:
            self._make(name, items, argument)

    def _pop(self, opcode: pickletools.OpcodeInfo) -> list[_Node]:
        count = len(opcode.stack_before)
        start = len(self.stack) - count
        if pickletools.markobject in opcode.stack_before:
            start = self.marks.pop() - opcode.stack_before.index(pickletools.markobject)
        if start < 0:
            raise IndexError("stack underflow")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _ask(self, module: str, name: str) -> None:
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        self.asked[f"{module}.{name}"] = None
        self.stack.append(_Node(_Name(f"{module}.{name}")))

    def _declare(self, node: _Node) -> None:
        parts = [part.value for part in node.value] if isinstance(node.value, list) else []
        if parts[:1] == ["module"]:
            return  # a whole module in the legacy format; its class has been asked for by name
        if len(parts) < 5 or parts[0] != "storage" or not isinstance(parts[1], _Name):
            raise ValueError("a reference to something outside the file")
        size, count = item_size(parts[1].full), parts[4]
        if size is None or not isinstance(count, int) or count < 0:
            raise ValueError("a storage without a size")
        key = str(parts[2])
        self.storages[key] = max(self.storages.get(key, 0), count * size)

    def _fill(self, name: str, items: list[_Node]) -> None:
        container, *filling = items
        if name.startswith("SETITEM"):
            self._hash(filling[0::2])
        container.depth = max([container.depth, *(item.depth + 1 for item in filling)])
        container.weight = min(container.weight + sum(item.weight for item in filling), MOST_HASHED + 1)
        self.stack.append(container)

    def _make(self, name: str, items: list[_Node], argument: Any) -> None:
        depth = max((item.depth + 1 for item in items), default=1)
        if depth > DEEPEST:
            raise ValueError("values nested too deeply")
        weight = min(1 + sum(item.weight for item in items), MOST_HASHED + 1)
        if name == "REDUCE":
            self._hash(items[1:])
        short = name.startswith("TUPLE") and len(items) <= 6
        self.stack.append(_Node(items if short else argument, depth, weight))

    def _hash(self, keys: list[_Node]) -> None:
        self.hashed += sum(key.weight for key in keys)
        if self.hashed > MOST_HASHED:
            raise ValueError("values that repeat themselves without end")


# fmt: off
_KNOWN = frozenset({
    "PROTO", "STOP", "MARK", "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT",
    "EMPTY_SET", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "BINGET",
    "LONG_BINGET", "BINPUT", "LONG_BINPUT", "LONG1",
})
# fmt: on
"""Opcodes that PyTorch's loader knows."""


def scan(stream: BinaryIO, where: str) -> Scan:
    """Scans the pickle that starts at the stream's position, and leaves the stream behind it.

    Args:
        stream: positioned at the first opcode.
        where: the file, for messages.

    Raises:
        UnreadableCheckpoint: not a pickle, cut short, or built to exhaust the machine.
    """
    machine = _Machine()
    try:
        for opcode, argument in _opcodes(stream):
            machine.step(opcode, argument)
            if opcode.name == "STOP":
                break
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise UnreadableCheckpoint(
            f"{where} is damaged or not a checkpoint: its pickle cannot be followed ({short(error)}); "
            "fetch or save the file again."
        ) from error
    refused = tuple(name for name in machine.asked if not _is_allowed(name))
    return Scan(refused, machine.storages, machine.foreign)


def _opcodes(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    # genops is annotated for a file, and uses nothing of it but these two methods.
    bounded: Any = _Bounded(stream)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
        if count > MOST_OPCODES:
            raise ValueError(f"more than {MOST_OPCODES} opcodes")
        yield opcode, argument
