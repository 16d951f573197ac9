"""Which names a graph sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from nexus_compiler.frontend.onnx.values import Value
from nexus_runtime.errors import CaptureError


@dataclass
class Scope:
    """The names that a graph, or the body of a function or branch, can see.

    Attributes:
        nodes: all nodes of the graph, also those that no output needs.
    """

    opsets: Mapping[str, int]
    values: dict[str, Value | None] = field(default_factory=dict[str, Value | None])
    outer: Scope | None = None
    nodes: Sequence[onnx.NodeProto] = ()

    def lookup(self, name: str) -> Value | None:
        """The value called `name`; None for "", which stands for an absent input."""
        if not name:
            return None
        if name in self.values:
            return self.values[name]
        if self.outer is None:
            raise CaptureError(f"no node makes the value '{name}'", hint="export the model again")
        return self.outer.lookup(name)
