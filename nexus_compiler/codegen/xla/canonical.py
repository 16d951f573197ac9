"""The content of a Relax function: text without names, equal for equal functions.

Variables and symbolic dimensions are numbered in the order in which they occur; constants enter by
the hash of their bytes; functions that are called are written out, numbered in the same way.
(`tvm.ir.save_json` keeps every name, and its order of nodes is an accident of how they were made.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GlobalVar, Op
from tvm.ir.expr import Var

from nexus_runtime.errors import UnsupportedOperator


@dataclass(frozen=True)
class Program:
    """A Relax function, its name (for messages), and the functions of its module by name."""

    name: str
    function: relax.Function
    callees: Mapping[str, relax.Function]


def content(program: Program) -> bytes:
    """Canonical bytes of `program` and of all functions that it calls.

    Raises:
        UnsupportedOperator: it holds something that is no part of a captured graph.
    """
    writer = _Writer(program)
    texts = [writer.function(program.function)]
    written = 0
    while written < len(writer.callees):
        name = list(writer.callees)[written]
        if name not in program.callees:
            raise _lowered(program.name, name)
        texts.append(writer.function(program.callees[name]))
        written += 1
    return "\n".join(texts).encode()


def _lowered(function: str, kernel: str) -> UnsupportedOperator:
    return UnsupportedOperator(
        f"function '{function}' calls the kernel '{kernel}'",
        hint="a module is exported to XLA before its operators are lowered",
    )


def tuple_fields(kind: Any) -> Any:
    """The types within a tuple's type (TVM's stubs do not know the attribute)."""
    return kind.fields


@dataclass
class _Writer:
    program: Program
    callees: dict[str, int] = field(default_factory=dict)
    numbers: dict[Any, int] = field(default_factory=dict)
    aliases: dict[Any, str] = field(default_factory=dict)

    def function(self, function: relax.Function) -> str:
        self.numbers = {}
        parameters = ", ".join(
            f"{self._name(variable)}: {self._type(variable.ty)}" for variable in function.params
        )
        return f"function({parameters}) {self._value(function.body)}"

    def _name(self, variable: Any) -> str:
        return f"%{self.numbers.setdefault(variable, len(self.numbers))}"

    def _list(self, items: Any) -> str:
        return ", ".join(self._value(item) for item in items)

    def _type(self, kind: Any) -> str:
        if isinstance(kind, relax.TupleType):
            return f"({', '.join(self._type(item) for item in tuple_fields(kind))})"
        if isinstance(kind, relax.TensorType):
            shape = "?" if kind.shape is None else self._value(kind.shape)
            return f"{kind.dtype}{kind.ndim}{shape}"
        if isinstance(kind, relax.ShapeType):
            return "shape?" if kind.values is None else f"shape[{self._list(kind.values)}]"
        return str(kind)

    def _value(self, node: Any) -> str:
        kind = type(node).__name__
        if isinstance(node, Var):
            return self.aliases.get(node) or self._name(node)
        if kind == "GenericConst":
            array = node.value.numpy()
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            return f"const {array.dtype.name}{list(array.shape)} {digest}"
        if isinstance(node, relax.Tuple):
            return f"({self._list(node.fields)})"
        if isinstance(node, relax.ShapeExpr):
            return f"[{self._list(node.values)}]"
        if isinstance(node, relax.TupleGetItem):
            return f"{self._value(node.tuple_value)}.{int(node.index)}"
        if isinstance(node, relax.SeqExpr):
            return self._sequence(node)
        if isinstance(node, relax.If):
            branches = f"{self._value(node.true_branch)} else {self._value(node.false_branch)}"
            return f"if {self._value(node.cond)} then {branches}"
        if isinstance(node, relax.Call):
            return self._call(node)
        return self._scalar(node, kind)

    def _scalar(self, node: Any, kind: str) -> str:
        if kind in ("IntImm", "FloatImm", "StringImm", "DataTypeImm"):
            return f"{getattr(node, 'ty', '')}:{node.value!r}"
        if kind == "Cast":
            return f"Cast({node.ty}, {self._value(node.value)})"
        if hasattr(node, "a") and hasattr(node, "b"):
            return f"{kind}({self._value(node.a)}, {self._value(node.b)})"
        if isinstance(node, GlobalVar):
            raise _lowered(self.program.name, str(node.name_hint))
        raise UnsupportedOperator(
            f"function '{self.program.name}' holds {node} ({kind}), which is no captured graph",
            hint="export from the graph as a frontend returns it",
        )

    def _sequence(self, node: Any) -> str:
        lines: list[str] = []
        # A dataflow block and a plain one compute the same; only the bindings count.
        for binding in (binding for block in node.blocks for binding in block.bindings):
            value = self._value(binding.value)
            cast = isinstance(binding, relax.MatchCast)
            if isinstance(binding.value, relax.Tuple | Var) and not cast:
                # Whether a tuple was bound before it is returned is an accident of the frontend.
                self.aliases[binding.var] = value
                continue
            kind = f" as {self._type(binding.ty)}" if cast else ""
            lines.append(f"{self._name(binding.var)} = {value}{kind}")
        return "{" + "; ".join([*lines, self._value(node.body)]) + "}"

    def _call(self, call: Any) -> str:
        head: Any = call.op
        if isinstance(call.op, Op):
            callee = str(head.name)
        elif isinstance(call.op, GlobalVar):
            callee = f"@{self.callees.setdefault(head.name_hint, len(self.callees))}"
        else:
            callee = self._value(head)
        attrs = "" if call.attrs is None else tvm.ir.save_json(call.attrs)
        # The type holds what inference chose, such as the lengths of a split.
        return f"{callee}({self._list(call.args)}){attrs}: {self._type(call.ty)}"
