# SPDX-License-Identifier: Apache-2.0
"""Editing an exported program: its tensors by name, new nodes that belong to a module, and what becomes superfluous."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

aten = torch.ops.aten


def duplicate(exported: ExportedProgram) -> ExportedProgram:
    """A program to edit in place of another, whose tensors it shares."""
    tensors = (*exported.state_dict.values(), *exported.constants.values())
    return copy.deepcopy(exported, {id(tensor): tensor for tensor in tensors})


class Editor:
    """One program under edit; its tensors are replaced, never written into, as they may be the reference's own."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.graph = exported.graph
        self.edited: dict[str, Tensor] = {}
        """What `set` put in, by name."""
        self._specs = dict(zip(_placeholders(exported), exported.graph_signature.input_specs, strict=True))

    def calls(self) -> list[Node]:
        """The nodes that compute something, in order of execution."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    def name(self, node: Any) -> str | None:
        """The name of the parameter, buffer or constant that a node stands for."""
        spec = self._specs.get(node) if isinstance(node, Node) else None
        return None if spec is None or spec.kind is InputKind.USER_INPUT else spec.target

    def tensor(self, node: Any) -> Tensor | None:
        """The parameter, buffer or constant that a node stands for."""
        name = self.name(node)
        return None if name is None else self.value(name)

    def value(self, name: str) -> Tensor:
        """The parameter, buffer or constant of that name."""
        store = self.exported.state_dict if name in self.exported.state_dict else self.exported.constants
        tensor: Tensor = store[name]
        return tensor.detach()

    def image(self) -> Node:
        """The placeholder of the image."""
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
        """A new buffer.

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
        """A new node that belongs to the module of the node before which it stands."""
        with self.graph.inserting_before(before):
            node: Node = self.graph.call_function(target, arguments)
        node.meta = {key: before.meta[key] for key in ("nn_module_stack", "stack_trace") if key in before.meta}
        values = torch.fx.map_arg(arguments, lambda argument: argument.meta["val"])
        with self._mode():
            node.meta["val"] = target(*values)
        return node

    def replace(self, old: Node, new: Node) -> None:
        """Has every reader of a node read another one, the program's outputs included."""
        old.replace_all_uses_with(new)
        self.exported.graph_signature.replace_all_uses(old.name, new.name)

    def sweep(self) -> None:
        """Drops what computes something that nothing reads."""
        for node in reversed(self.calls()):
            if not node.users:
                self.graph.erase_node(node)

    def finish(self) -> None:
        """Drops what nothing reads, and checks that the program is one."""
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
