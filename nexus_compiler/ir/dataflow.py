"""A dataflow function as a list of nodes that can be compared without TVM.

Reading is the only step that talks to TVM's objects, and it is done once; what comes after
(clusters, regions, repeats) works on tuples of numbers and strings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GlobalVar, Op, PrimType
from tvm.ir.expr import Constant, StringImm

Key = tuple[Hashable, ...]
"""A piece of a node, comparable by value; sizes in it are numbers or `Size`s."""


@dataclass(frozen=True)
class Size:
    """An open size: its expression with the place of each variable, and these variables."""

    text: str
    variables: tuple[tirx.Var, ...]


@dataclass(eq=False)
class Node:
    """One binding.

    Attributes:
        position: its place in the function.
        binding: TVM's.
        makes: its variable.
        operator: the operator that it calls; None where it is opaque: nobody but TVM looks inside.
        reads: the variables that it reads, in order, with repetitions.
        operands: its arguments; variables are `("v", place in reads)`.
        attributes: the operator's, interned.
        kind: the type of what it makes.
        sources: the types of `reads`.
        sizes: the open sizes in its operands and its kind.
    """

    position: int
    binding: relax.Binding
    makes: relax.Var
    operator: str | None
    reads: tuple[relax.Var, ...]
    operands: Key = ()
    attributes: int = 0
    kind: Key | None = None
    sources: tuple[Key, ...] = ()
    sizes: tuple[Size, ...] = ()


@dataclass
class Interner:
    """Numbers objects of TVM, equal ones alike: hashes find candidates, equality decides."""

    _objects: list[Any] = field(default_factory=list[Any])
    _hashes: list[int] = field(default_factory=list[int])
    _buckets: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def number(self, value: Any) -> int:
        """The number of `value`; equal values have the same."""
        if value is None:
            return -1
        code = int(tvm_ffi.structural_hash(value))
        bucket = self._buckets.setdefault(code, [])
        for number in bucket:
            known = self._objects[number]
            if known.same_as(value) or tvm_ffi.structural_equal(known, value):
                return number
        self._objects.append(value)
        self._hashes.append(code)
        bucket.append(len(self._objects) - 1)
        return bucket[-1]

    def constant(self, value: Any) -> str:
        """A constant tensor by its content, the same in every process."""
        array = value.value.numpy()
        state = hashlib.sha256(f"{value.value.dtype}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    def code(self, number: int) -> int:
        """The hash of the object of `number`, which is the same in every process."""
        return self._hashes[number] if number >= 0 else 0


Parts = Mapping[GlobalVar, relax.Function]
"""Functions that a pass has put together as one kernel each; calls of them are like operators."""
PART = "part."


def read(function: relax.Function, parts: Parts, interner: Interner) -> list[Node] | None:
    """The nodes of `function`; None where its body is more than one dataflow block."""
    body = function.body
    if not isinstance(body, relax.SeqExpr) or len(body.blocks) != 1:
        return None
    if not isinstance(body.blocks[0], relax.DataflowBlock):
        return None
    reader = _Reader(parts, interner)
    return [reader.node(place, binding) for place, binding in enumerate(body.blocks[0].bindings)]


def kind_of(ty: Any) -> Key | None:
    """A type by value; None where its shape is not told or it is no tensor."""
    if isinstance(ty, relax.TensorType):
        shape = ty.shape
        if not isinstance(shape, relax.ShapeExpr):
            return None
        return ("T", str(ty.dtype), *[size_of(size) for size in shape.values])
    if isinstance(ty, relax.TupleType):
        fields = [kind_of(one) for one in ty.fields]
        return None if None in fields else ("t", *fields)
    return None


def size_of(size: Any) -> int | Size:
    """A size by value."""
    if isinstance(size, tirx.IntImm):
        return int(size)
    variables = tuple(tirx.analysis.undefined_vars(size))
    if len(variables) == 1 and isinstance(size, tirx.Var):
        return Size("{0}", variables)
    # Printed with numbers for names, so that what a size is called does not count.
    named = {v: tirx.Var(f"s{i}", str(v.ty.dtype)) for i, v in enumerate(variables)}
    renamed = tvm_ffi.structural_map(size, (tirx.Var, lambda variable: named[variable]))
    return Size(str(renamed), variables)


def sizes_in(key: Any) -> list[Size]:
    """All open sizes within `key`, in order."""
    if isinstance(key, Size):
        return [key]
    found: list[Size] = []
    for part in key:
        if isinstance(part, tuple | Size):
            found += sizes_in(part)
    return found


def label(parts: Any) -> int:
    """64 bits that follow from `parts` alone, in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


_CALLS_OUT = ("relax.call_", "relax.invoke_", "relax.vm.", "relax.memory.", "relax.builtin.")
_HOST = {"relax.print", "relax.assert_op", "relax.null_value", "relax.to_vdevice"}


class _Reader:
    """Reads the bindings of one function, in order; each variable and its type once."""

    def __init__(self, parts: Parts, interner: Interner) -> None:
        self._parts, self._interner = parts, interner
        self._known: dict[relax.Var, tuple[relax.Var, Key | None]] = {}
        self._hidden: set[relax.Var] = set()
        # A type is taken apart once: a model has many tensors and few types.
        self._types, self._kinds = Interner(), dict[int, Key | None]()

    def node(self, position: int, binding: Any) -> Node:
        """One binding as a node."""
        return self._clear(position, binding) or self._opaque(position, binding)

    def _clear(self, position: int, binding: Any) -> Node | None:
        if not isinstance(binding, relax.VarBinding):
            return None
        value = binding.value
        variable, kind = self._variable(binding.var)
        found: list[tuple[relax.Var, Key]] = []
        if isinstance(value, relax.Call):
            name, arguments = _callee(value, self._parts), value.args
            if name is None:
                return None
            attributes = self._interner.number(self._parts.get(value.op, value.attrs))
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value not in self._hidden:
            name, attributes, arguments = "tuple_get_item", int(value.index), (value.tuple_value,)
        else:
            return None
        keys = [self._operand(one, found) for one in arguments]
        operands = tuple([key for key in keys if key is not None])
        if kind is None or len(operands) < len(keys):
            return None
        reads, sources = tuple([v for v, _ in found]), tuple([key for _, key in found])
        # Variables among the operands have no sizes of their own.
        sizes = tuple(sizes_in((*[one for one in operands if one[0] != "v"], kind)))
        row = (name, reads, operands, attributes, kind, sources, sizes)
        return Node(position, binding, variable, *row)

    def _opaque(self, position: int, binding: Any) -> Node:
        reads = [self._variable(v)[0] for v in relax.analysis.free_vars(binding.value)]
        variable, _ = self._variable(binding.var)
        # The parts of what nobody looks into are as it is: no region takes a tuple.
        self._hidden.add(variable)
        return Node(position, binding, variable, None, tuple(reads))

    def _variable(self, variable: relax.Var) -> tuple[relax.Var, Key | None]:
        """One object for each variable, for which lookups are quick, and its type."""
        known = self._known.get(variable)
        if known is None:
            known = self._known[variable] = (variable, self._kind(variable.ty))
        return known

    def _kind(self, ty: Any) -> Key | None:
        number = self._types.number(ty)
        if number not in self._kinds:
            self._kinds[number] = kind_of(ty)
        return self._kinds[number]

    def _operand(self, value: Any, found: list[tuple[relax.Var, Key]]) -> Key | None:
        if isinstance(value, relax.Var) and (
            value in self._known or not isinstance(value.ty, PrimType)
        ):
            variable, kind = self._variable(value)
            if kind is None:
                return None
            found.append((variable, kind))
            return ("v", len(found) - 1)
        if isinstance(value, relax.ShapeExpr):
            return ("s", *[size_of(size) for size in value.values])
        if isinstance(value, relax.Tuple):
            parts = [self._operand(one, found) for one in value.fields]
            return None if any(part is None for part in parts) else ("t", *parts)
        if isinstance(value, StringImm):
            return ("i", str(value.value))
        if isinstance(value.ty, PrimType):
            return ("p", str(value.ty), size_of(value))
        return ("c", self._interner.constant(value)) if isinstance(value, Constant) else None


def _callee(call: relax.Call, parts: Parts) -> str | None:
    """What `call` computes, where that can be told by name and attributes."""
    callee = call.op
    if callee in parts:
        return PART + str(callee.name_hint).rstrip("_0123456789")
    if not isinstance(callee, Op) or len(call.ty_args):
        return None
    name = str(callee.name)
    return None if name.startswith(_CALLS_OUT) or name in _HOST else name


def nameless(parts: Any) -> Any:
    """`parts` of a node without the variables of open sizes: the same in every process."""
    if isinstance(parts, tuple):
        return tuple([nameless(part) for part in parts])
    return parts.text if isinstance(parts, Size) else parts


def variables_of(nodes: Sequence[Node]) -> dict[relax.Var, Node]:
    """Which node makes which variable."""
    return {node.makes: node for node in nodes}
