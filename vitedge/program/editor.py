# SPDX-License-Identifier: Apache-2.0
"""Editing an exported program: tensors by name, new nodes that belong to a module, removal of unused parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

from vitedge.program.modules import origin_metadata

aten = torch.ops.aten


def duplicate(exported: ExportedProgram) -> ExportedProgram:
    """Returns a copy of a program that can be edited and shares its tensors."""
    tensors = (*exported.state_dict.values(), *exported.constants.values())
    return copy.deepcopy(exported, {id(tensor): tensor for tensor in tensors})


@contextmanager
def symbolic(mode: Any) -> Iterator[None]:
    """Lets operators compute with values that stand for computed ones, those that are made of other operators too.

    Without its dispatcher in Python, PyTorch 2.11 takes the symbolic size of a product for the number of the tracing.

    Args:
        mode: the ``fake_mode`` of the values.
    """
    with mode, enable_python_dispatcher():
        yield


class Editor:
    """An editor of one program; tensors are replaced, never written into, as they may be the reference's own."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.graph = exported.graph
        self.edited: dict[str, Tensor] = {}
        """Name to the tensor that `set` stored."""
        self._specs = dict(zip(_placeholders(exported), exported.graph_signature.input_specs, strict=True))

    def calls(self) -> list[Node]:
        """Returns the nodes that compute something, in order of execution."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def name(self, node: Any) -> str | None:
        """Returns the name of the parameter, buffer or constant that a node stands for, or None."""
        spec = self._specs.get(node) if isinstance(node, Node) else None
        return None if spec is None or spec.kind is InputKind.USER_INPUT else spec.target

    def tensor(self, node: Any) -> Tensor | None:
        """Returns the parameter, buffer or constant that a node stands for, or None."""
        name = self.name(node)
        return None if name is None else self.value(name)

    def value(self, name: str) -> Tensor:
        """Returns the parameter, buffer or constant of that name."""
        store = self.exported.state_dict if name in self.exported.state_dict else self.exported.constants
        tensor: Tensor = store[name]
        return tensor.detach()

    def image(self) -> Node:
        """Returns the placeholder of the image."""
        return next(node for node, spec in self._specs.items() if spec.kind is InputKind.USER_INPUT)

    def set(self, name: str, tensor: Tensor) -> None:
        """Gives a name another tensor, which may be of another type and shape."""
        node = next(node for node in self._specs if self.name(node) == name)
        spec = self._specs[node]
        if spec.kind is InputKind.PARAMETER and not tensor.is_floating_point():
            spec.kind, spec.persistent = InputKind.BUFFER, True
        tensor = tensor.contiguous()
        store = self.exported.state_dict if name in self.exported.state_dict else self.exported.constants
        parameter = spec.kind is InputKind.PARAMETER
        store[name] = torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor
        node.meta["val"] = self._mode().from_tensor(tensor, static_shapes=True)
        self.edited[name] = tensor

    def add(self, name: str, tensor: Tensor) -> Node:
        """Adds a buffer, and returns its placeholder.

        Raises:
            ValueError: there is a tensor of that name.
        """
        if name in self.exported.state_dict or name in self.exported.constants:
            raise ValueError(f"{name} is there already")
        image = self.image()
        with self.graph.inserting_before(image):
            node: Node = self.graph.placeholder("b_" + name.replace(".", "_"))
        node.meta["val"] = self._mode().from_tensor(tensor, static_shapes=True)
        specs = self.exported.graph_signature.input_specs
        spec = InputSpec(InputKind.BUFFER, TensorArgument(node.name), name, persistent=True)
        specs.insert(specs.index(self._specs[image]), spec)
        self._specs[node] = spec
        self.exported.state_dict[name] = tensor
        return node

    def call(self, target: Any, arguments: tuple[Any, ...], before: Node) -> Node:
        """Inserts a node before another, in whose module it belongs; returns it."""
        with self.graph.inserting_before(before):
            node: Node = self.graph.call_function(target, arguments)
        node.meta = origin_metadata(before)
        values = torch.fx.map_arg(arguments, lambda argument: argument.meta["val"])
        with symbolic(self._mode()):
            node.meta["val"] = target(*values)
        return node

    def replace(self, old: Node, new: Node) -> None:
        """Replaces a node by another for all consumers, the program's outputs included."""
        old.replace_all_uses_with(new)
        self.exported.graph_signature.replace_all_uses(old.name, new.name)

    def sweep(self) -> None:
        """Drops computing nodes without consumers."""
        for node in reversed(self.calls()):
            if not node.users:
                self.graph.erase_node(node)

    def finish(self) -> None:
        """Drops all nodes and tensors without consumers, and checks the program."""
        self.sweep()
        for node in [node for node in self._specs if self.name(node) is not None and not node.users]:
            self._drop(node)
        self.exported.graph_module.recompile()
        self.exported.validate()  # type: ignore[no-untyped-call]

    def _drop(self, node: Node) -> None:
        spec = self._specs.pop(node)
        self.exported.graph_signature.input_specs.remove(spec)
        self.graph.erase_node(node)
        if spec.target is not None and all(other.target != spec.target for other in self._specs.values()):
            self.exported.state_dict.pop(spec.target, None)
            self.exported.constants.pop(spec.target, None)

    def _mode(self) -> Any:
        return self.image().meta["val"].fake_mode


def _placeholders(exported: ExportedProgram) -> Iterator[Node]:
    return (node for node in exported.graph.nodes if node.op == "placeholder")
