"""What a handler sees of the node that it translates.

Everything that a handler does not read is refused afterwards: an attribute, an input or an output
that nobody looked at must never silently change a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from tvm import relax

from nexus_compiler.frontend.onnx.registry import plain_domain
from nexus_compiler.frontend.onnx.sizes import Size, Sizes
from nexus_compiler.frontend.onnx.values import Host, Value, read_tensor, tensor_type
from nexus_runtime.errors import CaptureError, NeedsConstant, ShapeError, UnsupportedOperator
from nexus_runtime.tensors import BITS

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.importer import Importer, Scope


# Operators that only move elements, and so may move bits.
MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
    *("Identity", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze", "Where"),
}


class Node:
    """One node: its inputs, its attributes with their defaults, and the means to emit Relax.

    Attributes:
        kind: the operator's name.
        domain: its domain, "" for ONNX's own.
        opset: the version of that domain which the model was written for.
        sizes: arithmetic on symbolic sizes.
    """

    def __init__(self, proto: onnx.NodeProto, scope: Scope, importer: Importer) -> None:
        self.proto = proto
        self.scope = scope
        self.importer = importer
        self.kind: str = proto.op_type
        self.domain = plain_domain(proto.domain)
        self.opset = scope.opsets.get(self.domain, 1)
        self.sizes: Sizes = importer.sizes
        self.values: list[Value | None] = [scope.lookup(name) for name in proto.input]
        self._attributes = {a.name: a for a in proto.attribute}
        self._unread = set(self._attributes)
        self._unseen = {i for i, value in enumerate(self.values) if value is not None}

    def __str__(self) -> str:
        label = self.proto.name or next((name for name in self.proto.output if name), "")
        return f"{self.kind} node '{label}'"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def outputs(self) -> int:
        """How many outputs the graph asks for: the last that is used counts."""
        return max((i + 1 for i, name in enumerate(self.proto.output) if name), default=0)

    # Attributes
    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute in Python's types; absent, its default in this opset, else `default`."""
        self._unread.discard(name)
        if name in self._attributes:
            return _plain(self._attributes[name])
        standard = self.schema_attributes().get(name)
        if standard is not None and standard.default_value.type:
            return _plain(standard.default_value)
        return default

    def schema_attributes(self) -> dict[str, Any]:
        """What ONNX says of the attributes of this operator in this opset."""
        try:
            schema = onnx.defs.get_schema(self.kind, self.opset, self.domain)
        except onnx.defs.SchemaError:
            return {}
        return dict(schema.attributes)

    def ignore(self, *names: str) -> None:
        """These attributes do not change the result here."""
        self._unread -= set(names)

    # Inputs
    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.values) and self.values[index] is not None

    def value(self, index: int) -> Value:
        """Input `index` as it is."""
        self._unseen.discard(index)
        value = self.values[index] if index < len(self.values) else None
        if value is None:
            raise CaptureError(f"{self} lacks its input {index}", hint="export the model again")
        return value

    def tensor(self, index: int) -> relax.Expr:
        """Input `index` as a Relax tensor.

        Raises:
            UnsupportedOperator: its elements are of a type that only Cast and moves can take.
        """
        value = self.value(index)
        if (dtype := self.dtype(value)) in BITS and self.kind not in MOVES:
            raise self.refuse(f"its input {index} is {dtype}", "cast it to a wider type first")
        return self.importer.tensor(value)

    def bits(self, index: int) -> relax.Expr:
        """Input `index`, of one of the types in `BITS`, as the bits of its elements."""
        return self.importer.tensor(self.value(index))

    def tensors(self) -> list[relax.Expr]:
        """All inputs as Relax tensors."""
        return [self.tensor(index) for index in range(len(self))]

    def array(self, index: int) -> np.ndarray:
        """Input `index`, which must be a constant."""
        value = self.value(index)
        if not isinstance(value, Host) or value.symbolic:
            raise self.unknown(index, "must be a constant")
        return value.array

    def vector(self, index: int) -> list[Size]:
        """Input `index` as a list of sizes, each an int or symbolic."""
        value = self.value(index)
        if not isinstance(value, Host):
            raise self.unknown(index, "holds sizes that are only known when the model runs")
        items = value.array.reshape(-1)
        return [int(i) if isinstance(i, np.generic | int | float) else i for i in items]

    def axes(self, index: int, rank: int, name: str = "axes") -> list[int] | None:
        """The axes, counted from 0: input `index` or, in older opsets, an attribute."""
        if self.has(index):
            axes: Any = [int(axis) for axis in self.array(index).reshape(-1)]
        elif (axes := self.attr(name)) is None:
            return None
        return [self.axis(rank, int(axis)) for axis in axes]

    def axis(self, rank: int, axis: int | None = None, name: str = "axis") -> int:
        """An axis (by default the attribute `axis`), counted from 0."""
        number: int = self.attr(name) if axis is None else axis
        if not -rank <= number < max(rank, 1):
            raise ShapeError(f"{self} names axis {number} of a tensor with {rank} dimensions")
        return number % rank if rank else 0

    # Facts on tensors
    def shape(self, of: int | relax.Expr) -> list[Size]:
        """The sizes of an input, or of any tensor that was emitted."""
        value = self.value(of) if isinstance(of, int) else of
        if isinstance(value, Host):
            return list(value.array.shape)
        shape = tensor_type(value).shape
        if shape is None:
            raise self.refuse("the shape of its input cannot be told", "fix it with `shapes=`")
        return self.sizes.shape(shape.values)

    def static(self, of: int | relax.Expr, why: str) -> list[int]:
        """The sizes of a tensor, all of which must be known."""
        shape = self.shape(of)
        if any(not isinstance(size, int) for size in shape):
            raise self.refuse(f"{why} must have fixed sizes, not {shape}", "give `shapes=`")
        return shape

    def rank(self, of: int | relax.Expr) -> int:
        """The number of dimensions of an input or tensor."""
        value = self.value(of) if isinstance(of, int) else of
        return value.array.ndim if isinstance(value, Host) else int(tensor_type(value).ndim)

    def dtype(self, of: int | Value) -> str:
        """The element type of an input or tensor, by NumPy's name."""
        return self.importer.dtype(self.value(of) if isinstance(of, int) else of)

    # Making
    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind `expr`, so that its type is known."""
        return self.importer.emit(expr)

    def scalar(self, number: Any, dtype: str) -> relax.Expr:
        """A constant without dimensions."""
        return self.importer.tensor(Host(np.asarray(number).astype(dtype), dtype))

    def refuse(self, reason: str, hint: str = "") -> UnsupportedOperator:
        """The error that this node cannot be translated, for `reason`."""
        return UnsupportedOperator(
            f"{self} (opset {self.opset}) cannot be translated: {reason}",
            hint=hint or "rewrite this part of the model",
        )

    def unknown(self, index: int, reason: str) -> NeedsConstant:
        """The error that input `index` must be known while importing, for `reason`."""
        name = self.proto.input[index]
        refusal = self.refuse(f"its input {index} ('{name}') {reason}")
        return NeedsConstant(
            refusal.message,
            hint="make it a constant in the model, fix the shapes with `shapes=`, or freeze an "
            f"input to its value: --freeze {name}=FILE.npy",
            name=name,
        )

    def finish(self, results: Sequence[Value]) -> None:
        """Refuse what the handler did not look at."""
        if self._unread:
            raise self.refuse(f"attribute '{min(self._unread)}' is not handled")
        if self._unseen:
            raise self.refuse(f"input {min(self._unseen)} is not handled")
        if self.outputs > len(results):
            raise self.refuse(f"its output {self.outputs - 1} is not handled")


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return read_tensor(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode() for item in attribute.strings]
    return value if isinstance(value, int | float | onnx.GraphProto) else list(value)
