"""How much a kernel has to do, read off its loops before they are scheduled.

After scheduling, padding and what is computed twice would count too: the figures are of the work
that was asked for, so that a schedule cannot improve them by wasting more.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx
from tvm.ir.expr import Call, TensorLoad
from tvm.s_tir.stmt import SBlockRealize
from tvm.sym import Analyzer, ConstIntBound

from nexus_compiler.codegen.llvm.schedules.kernel import operator, substitute, variables
from nexus_compiler.ir.calls import values
from nexus_compiler.ir.sizes import text
from nexus_runtime.work import Count, Kernel, Memory

FAMILY, FLOPS, BYTES, DTYPE = "nexus.family", "nexus.flops", "nexus.bytes", "nexus.dtype"
TUNED = "nexus.tuned"
"""Attributes of scheduled kernels; the last of those for which a measurement chose."""
_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.FloorDiv)
# Calls that choose or relabel, but compute nothing.
_ALLOCATE = "relax.vm.alloc_storage"
_INDEX = "int64"
_ENDLESS = 10**9
_FREE = ("if_then_else", "reinterpret", "likely")


@dataclass
class _Tally:
    """Operations by element type, and how often elements of each buffer are touched."""

    operations: dict[str, Any] = field(default_factory=lambda: collections.defaultdict(int))
    touched: dict[Any, Any] = field(default_factory=lambda: collections.defaultdict(int))


def measure(function: tirx.PrimFunc) -> dict[str, Any]:
    """Values of the attributes `FLOPS`, `BYTES` and `DTYPE` for a kernel that is not scheduled."""
    tally = _Tally()
    for statement, turns in _statements(function.body, tirx.const(1, "int64")):
        _count(statement, turns, tally)
    names = _names(function)
    total = reduce(lambda a, b: a + b, tally.operations.values(), tirx.const(0, "int64"))
    moved: Any = tirx.const(0, "int64")
    for parameter in function.params:
        if _is_tensor(parameter):
            moved = moved + _bytes(parameter, tally.touched.get(parameter, 0))
    said = {FLOPS: _said(total, names), BYTES: _said(moved, names)}
    return {DTYPE: _dtype(function, tally), **{k: v for k, v in said.items() if v is not None}}


def _statements(node: Any, turns: Any) -> Iterator[tuple[tirx.BufferStore, Any]]:
    """Every store, with how often it runs."""
    if isinstance(node, tirx.BufferStore):
        yield node, turns
    elif isinstance(node, tirx.For):
        yield from _statements(node.body, turns * node.extent)
    elif isinstance(node, SBlockRealize):
        yield from _statements(node.block.body, turns)
    elif isinstance(node, tirx.SeqStmt):
        for part in node.seq:
            yield from _statements(part, turns)
    elif isinstance(node, tirx.IfThenElse):
        yield from _statements(node.then_case, turns)
        yield from _statements(node.else_case, turns)
    elif hasattr(node, "body"):
        yield from _statements(node.body, turns)


def _count(store: tirx.BufferStore, turns: Any, tally: _Tally) -> None:
    tally.touched[store.buffer] += turns

    def operation(node: Any) -> None:
        dtype = str(node.ty.dtype)
        # Sums of indices in a condition are no work that anybody asked for; nor are those of loads.
        if dtype != _INDEX or str(store.value.ty.dtype) == _INDEX:
            tally.operations[dtype] += turns

    def call(node: Any) -> None:
        if operator(node) not in _FREE:
            operation(node)

    def load(node: Any) -> Any:
        tally.touched[node.source] += turns
        for index in node.indices:
            tvm_ffi.structural_walk(index, (TensorLoad, load), order="pre")
        return tvm_ffi.structural.WalkResult.SKIP

    callbacks = ((TensorLoad, load), (_ARITHMETIC, operation), (Call, call))
    tvm_ffi.structural_walk(store.value, callbacks, order="pre")


def _is_tensor(parameter: Any) -> bool:
    """Whether it is one; kernels also take numbers."""
    return hasattr(parameter.ty, "shape")


def _bytes(buffer: Any, touched: Any) -> Any:
    """Bytes of the elements of `buffer` that are touched: a gather reads little of its table."""
    elements = reduce(lambda a, b: a * b, buffer.ty.shape, tirx.const(1, "int64"))
    bits = tvm.DataType(str(buffer.ty.dtype)).bits
    return tirx.min(elements, touched) * max(bits // 8, 1)


def _names(function: tirx.PrimFunc) -> dict[Any, Any]:
    """Variables that a call settles, by the name of the place that `nexus_runtime.work` gives."""
    names: dict[Any, Any] = {}
    for index, parameter in enumerate(function.params):
        if not _is_tensor(parameter):
            names.setdefault(parameter, tirx.Var(f"p{index}", "int64"))
            continue
        for axis, size in enumerate(parameter.ty.shape):
            if isinstance(size, tirx.Var):
                names.setdefault(size, tirx.Var(f"p{index}_{axis}", "int64"))
    return names


def _said(total: Any, names: dict[Any, Any]) -> int | str | None:
    """`total` in the names of places; None where it is not settled by them."""
    analyzer = Analyzer()
    for variable in names:
        analyzer.update(variable, ConstIntBound(1, _ENDLESS))
    total = analyzer.simplify(total)
    if not variables(total) <= set(names):
        return None
    return text(substitute(total, names))


def _dtype(function: tirx.PrimFunc, tally: _Tally) -> str:
    """The type of most operations; int8 where its products are summed in int32."""
    fixed = {k: int(v) for k, v in tally.operations.items() if isinstance(v, tirx.IntImm)}
    known = fixed or dict.fromkeys(tally.operations, 1)
    most = max(known, key=lambda name: (known[name], name), default="")
    tensors = [str(p.ty.dtype) for p in function.params if _is_tensor(p)]
    if most == "int32" and {"int8", "uint8"} & set(tensors):
        return "int8"
    return most or next(iter(tensors), "")


def describe(function: tirx.PrimFunc, name: str) -> Kernel:
    """What is known of the scheduled kernel `name`, as the module's list of kernels has it."""

    def attribute(key: str) -> Any:
        return function.attrs.get(key, None)

    def number(key: str) -> Count:
        value = attribute(key)
        # TVM's strings are a class of their own.
        return value if value is None else str(value) if isinstance(value, str) else int(value)

    return Kernel(
        label=_label(name),
        family=str(attribute(FAMILY) or "host"),
        shapes=tuple(_shape(parameter) for parameter in function.params),
        dtype=str(attribute(DTYPE) or ""),
        flops=number(FLOPS),
        bytes=number(BYTES),
        tuned=str(attribute(TUNED) or ""),
    )


def _label(name: str) -> str:
    """Operators, without the numbers that tell apart what is called the same."""
    parts = name.removeprefix("fused_").split("_")
    return " ".join(part.rstrip("0123456789") if part[-1:].isdigit() else part for part in parts)


def _shape(parameter: Any) -> str:
    if not _is_tensor(parameter):
        return str(parameter.name)
    dims = ", ".join(str(text(size)) for size in parameter.ty.shape)
    return f"{parameter.ty.dtype}[{dims}]"


def memory(module: IRModule) -> dict[str, Memory]:
    """What each function of a lowered module sets aside for its intermediate tensors."""
    return {
        str(variable.name_hint): _memory(function)
        for variable, function in sorted(module.functions.items(), key=lambda i: i[0].name_hint)
        if isinstance(function, relax.Function)
    }


def _memory(function: relax.Function) -> Memory:
    sizes: list[Any] = []
    for value in values(function):
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == _ALLOCATE:
            size = value.args[0]
            sizes.append(size.values[0] if isinstance(size, relax.ShapeExpr) else None)
    fixed = [int(size) for size in sizes if isinstance(size, tirx.IntImm)]
    return Memory(fixed=sum(fixed), open=len(sizes) - len(fixed))
