"""What a trace is made of: values that are known, and operations that were only written down."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Shape = tuple[int, ...]


class Handle(Protocol):
    """The array that the user holds; a node whose handle is gone is not wanted any more."""

    node: Node


class Node:
    """One value of a trace.

    Attributes:
        op: the operation; "leaf" for a value that is known, "const" for a Python scalar.
        inputs: the nodes that it reads.
        attrs: everything that decides its code, apart from sizes.
        sizes: integers that may follow from the sizes of leaves: a shape, the bounds of a slice.
        value: the array of a leaf, the NumPy scalar of a constant.
        owner: the recorder that the node waits in; None once it is known, or was lost.
        origin: of a leaf that is written in the code: the recorder of the trace that it is part of.
    """

    __slots__ = (
        "_handle",
        "attrs",
        "dtype",
        "inputs",
        "op",
        "origin",
        "owner",
        "shape",
        "sizes",
        "value",
    )

    def __init__(
        self,
        op: str,
        inputs: tuple[Node, ...],
        shape: Shape,
        dtype: np.dtype,
        *,
        attrs: tuple[Any, ...] = (),
        sizes: Shape = (),
        value: Any = None,
        owner: Any = None,
    ) -> None:
        self.op, self.inputs, self.shape, self.dtype = op, inputs, shape, dtype
        self.attrs, self.sizes, self.value, self.owner = attrs, sizes, value, owner
        self.origin: Any = None
        self._handle: weakref.ref[Any] | None = None

    @property
    def handle(self) -> Any:
        """The user's array, or None where nobody holds one."""
        return None if self._handle is None else self._handle()

    def hold(self, handle: Any) -> None:
        """Remember the user's array, weakly."""
        self._handle = None if handle is None else weakref.ref(handle)


def leaf(value: np.ndarray, *, origin: Any = None) -> Node:
    """A known value."""
    node = Node("leaf", (), value.shape, value.dtype, value=value)
    node.origin = origin
    return node


def constant(value: Any, dtype: np.dtype) -> Node:
    """A Python scalar as one of `dtype`."""
    return Node("const", (), (), dtype, value=dtype.type(value))


@dataclass(frozen=True)
class Graph:
    """A region: what it reads, what it does in order, and which of it is wanted.

    Attributes:
        leaves: the known values, in the order in which they are first read.
        nodes: the operations; each stands behind its inputs.
        outputs: nodes of `nodes`.
    """

    leaves: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]

    @staticmethod
    def of(outputs: Sequence[Node], order: Sequence[Node]) -> Graph:
        """The part of `order` that `outputs` follow from."""
        wanted = set(outputs)
        kept: list[Node] = []
        for node in reversed(order):
            if node in wanted:
                kept.append(node)
                wanted.update(node.inputs)
        kept.reverse()
        found: dict[Node, None] = {}
        nodes: list[Node] = []
        for node in kept:
            for source in node.inputs:
                if source.op == "leaf":
                    found[source] = None
                elif source.op == "const":
                    nodes.append(source)
            nodes.append(node)
        return Graph(tuple(found), tuple(dict.fromkeys(nodes)), tuple(outputs))

    def walk(self) -> Iterator[Node]:
        """All operations but constants."""
        return (node for node in self.nodes if node.op != "const")
