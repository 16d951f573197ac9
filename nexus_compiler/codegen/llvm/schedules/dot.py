"""Sums of products of bytes, by instructions that add several products to each int32 lane.

The weights lie packed (`pack_bytes.py`) so that one load has for each column of a vector the
neighbouring steps that one instruction takes; as many neighbours of the other operand are broadcast
to all lanes. All are exact: `vpmaddubsw`, which takes four bytes on older processors, saturates its
sums at 16 bits, so there bytes are widened to 16 bits and taken in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import Analyzer

from nexus_compiler.codegen.llvm.schedules import build, kernel, matmul, spatial
from nexus_compiler.codegen.llvm.schedules.kernel import Kernel, Stage
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.codegen.llvm.schedules.product import Product, recognise

_SUM = "int32"


@dataclass(frozen=True)
class Instruction:
    """`sums[lane] += left[i] * right[lane, i]`, summed over `depth` neighbours i.

    Attributes:
        left, right: types of the elements in the registers.
        emit: the new sums from sums, left and right, as vectors of so many lanes.
    """

    depth: int
    left: str
    right: str
    emit: Callable[[Any, Any, Any, int], Any]


def _call(name: str, lanes: int, *arguments: Any) -> Any:
    return tirx.call_llvm_pure_intrin(f"{_SUM}x{lanes}", name, *arguments)


def _vpdpbusd(sums: Any, left: Any, right: Any, lanes: int) -> Any:
    return _call(f"llvm.x86.avx512.vpdpbusd.{lanes * 32}", lanes, sums, left, right)


def _pmaddwd(sums: Any, left: Any, right: Any, lanes: int) -> Any:
    names = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}
    return sums + _call(f"llvm.x86.{names[lanes]}", lanes, left, right)


def _sdot(sums: Any, left: Any, right: Any, lanes: int) -> Any:
    return _call(f"llvm.aarch64.neon.sdot.v{lanes}i32.v{lanes * 4}i8", lanes, sums, left, right)


def _plain(sums: Any, left: Any, right: Any, lanes: int) -> Any:
    wide = f"{_SUM}x{lanes}"
    return sums + tirx.Cast(wide, left) * tirx.Cast(wide, right)


_INSTRUCTIONS = {
    "vpdpbusd": Instruction(4, "uint8", "int8", _vpdpbusd),
    "pmaddwd": Instruction(2, "int16", "int16", _pmaddwd),
    "sdot": Instruction(4, "int8", "int8", _sdot),
    # Vectors of 16 bits times a number: what NEON's `smlal` does.
    "": Instruction(1, "int16", "int16", _plain),
}


def instruction(name: str) -> Instruction:
    """The instruction that a target's `limits.dot` names; "": multiply and add."""
    return _INSTRUCTIONS[name]


def schedule(kernel_: Kernel, machine: Machine) -> tirx.PrimFunc | None:
    """The kernel in register tiles; None where it is no product of bytes with packed ones."""
    own = instruction(machine.dot)
    bytes_ = _read(kernel_, own)
    if bytes_ is None:
        return None
    form = recognise(bytes_.plain, machine)
    if form is None or not form.packed:
        return None
    return _Writer(form, bytes_, own, machine).function(kernel_.function)


@dataclass(frozen=True)
class _Bytes:
    """A product of bytes: `plain` is the kernel with whole groups of neighbours as elements."""

    plain: Kernel
    left: TensorLoad
    right: TensorLoad


def _read(kernel_: Kernel, own: Instruction) -> _Bytes | None:
    place = next((i for i, stage in enumerate(kernel_.stages) if stage.reduced), None)
    if place is None:
        return None
    stage = kernel_.stages[place]
    factors = _factors(stage)
    if factors is None:
        return None
    for left, right in (factors, factors[::-1]):
        group = _group(stage, left, right, own)
        if group is not None:
            plain = _grouped(stage, left, right, group)
            stages = (*kernel_.stages[:place], plain, *kernel_.stages[place + 1 :])
            return _Bytes(Kernel(kernel_.function, stages), left, right)
    return None


def _factors(stage: Stage) -> tuple[TensorLoad, TensorLoad] | None:
    value = stage.store.value
    if not isinstance(value, tirx.Add) or str(value.ty) != _SUM:
        return None
    for total, term in ((value.a, value.b), (value.b, value.a)):
        if isinstance(total, TensorLoad) and total.source.same_as(stage.store.buffer):
            if not isinstance(term, tirx.Mul):
                return None
            left, right = _bare(term.a), _bare(term.b)
            both = isinstance(left, TensorLoad) and isinstance(right, TensorLoad)
            return (left, right) if both else None
    return None


def _bare(value: Any) -> Any:
    while isinstance(value, tirx.Cast):
        value = value.value
    return value


def _group(
    stage: Stage, left: TensorLoad, right: TensorLoad, own: Instruction
) -> tuple[tirx.IterVar, ...] | None:
    """The axis of neighbours, none where there is but one; None where the form is another."""
    if str(right.ty) != own.right or build.known(right.source.shape[-1]) != own.depth:
        return None
    if own.depth == 1:
        return ()
    axis = next((a for a in stage.reduced if a.var.same_as(right.indices[-1])), None)
    if axis is None or build.known(axis.dom.extent) != own.depth:
        return None
    *outer, last = left.indices
    step = kernel.substitute(last, {axis.var: axis.var + 1}) - last
    in_order = kernel.is_const(Analyzer().simplify(step), 1)
    others = kernel.variables([*outer, *right.indices[:-1]])
    return (axis,) if in_order and axis.var not in others else None


def _grouped(
    stage: Stage, left: TensorLoad, right: TensorLoad, group: tuple[tirx.IterVar, ...]
) -> Stage:
    """`stage` with one step for each group: an ordinary product of packed weights."""
    first = build.bind(group, [build.number(0)])
    shape = list(right.source.shape)[:-1]
    rows = tirx.decl_buffer(list(left.source.shape), _SUM, "rows")
    tiles = tirx.decl_buffer(shape, _SUM, "tiles")
    begin = [kernel.substitute(index, first) for index in left.indices]
    term = tirx.BufferLoad(rows, begin) * tirx.BufferLoad(tiles, list(right.indices)[:-1])
    old = stage.store
    total = tirx.BufferLoad(old.buffer, list(old.indices)) + term
    reduced = tuple(axis for axis in stage.reduced if not any(axis is own for own in group))
    store = tirx.BufferStore(old.buffer, total, list(old.indices))
    return replace(stage, reduced=reduced, store=store)


class _Writer(matmul.Writer):
    def __init__(self, form: Product, bytes_: _Bytes, own: Instruction, machine: Machine) -> None:
        self._own, self._right = own, bytes_.right.source
        self._source = bytes_.left.source
        size = tvm.DataType(_SUM).bits // tvm.DataType(own.left).bits
        super().__init__(form, machine, pitch=form.pitch // size)

    def _before(self) -> list[tuple[tirx.Buffer, tirx.Stmt]]:
        steps = super()._before()
        if self._own.depth > 1 and str(self._source.dtype) != self._own.left:
            steps.append(self._widened())
        return steps

    def _widened(self) -> tuple[tirx.Buffer, tirx.Stmt]:
        """Copy the left operand once, in the type that the instruction takes."""
        old = self._source
        wide = tirx.decl_buffer(list(old.shape), self._own.left, "wide")
        axes = [
            tirx.IterVar(tvm.ir.Range(build.number(0), size), f"i{i}", 0)
            for i, size in enumerate(old.shape)
        ]
        place = [axis.var for axis in axes]
        value = tirx.Cast(self._own.left, tirx.BufferLoad(old, place))
        copied = tuple(axis for axis in axes if not kernel.is_const(axis.dom.extent, 1))
        store = kernel.drop_units(tirx.BufferStore(wide, value, place), axes)
        self._source = wide
        stage = Stage("wide", copied, (), store, None)
        return wide, spatial.write(stage, {}, self._machine, parallel=True)

    def _add(
        self,
        total: tirx.Buffer,
        values: dict[Any, Any],
        row: Any,
        tile: Any,
        column: Any,
        spot: list[Any],
    ) -> tirx.Stmt:
        form, lanes, depth = self._form, self._tiling.lanes, self._own.depth
        height, wide = (int(size) for size in total.shape)
        steps = [kernel.substitute(index, values) for index in form.right.indices[1:-1]]

        def line(i: Any) -> tirx.Stmt:
            own = values | build.split(form.rows, row + i)
            left = self._broadcast([kernel.substitute(index, own) for index in form.left.indices])
            sums = [one(i, left, at) for at in range(0, wide, lanes)]
            return build.sequence(sums)

        def one(i: Any, left: Any, at: int) -> tirx.Stmt:
            here = [i, tirx.Ramp(build.number(at), build.number(1), lanes)]
            group = tirx.Ramp(build.number(0), build.number(1), lanes * depth)
            right = tirx.BufferLoad(self._right, [tile, *steps, column + at, group])
            value = self._own.emit(tirx.BufferLoad(total, here), left, right, lanes)
            return tirx.BufferStore(total, value, here)

        return build.loop(height, line, "unroll", "row")

    def _broadcast(self, place: list[Any]) -> Any:
        """The neighbours from `place` on, in every lane."""
        lanes, depth = self._tiling.lanes, self._own.depth
        if depth == 1:
            return tirx.Broadcast(
                tirx.Cast(self._own.left, tirx.BufferLoad(self._source, place)), lanes
            )
        *outer, first = place
        near = tirx.BufferLoad(self._source, [*outer, tirx.Ramp(first, build.number(1), depth)])
        bits = tirx.Broadcast(tirx.reinterpret(_SUM, near), lanes)
        return tirx.reinterpret(f"{self._own.left}x{lanes * depth}", bits)
