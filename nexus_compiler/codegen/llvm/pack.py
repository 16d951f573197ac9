"""Brings weights into the order in which the register tiles of a product read them.

    w[steps, columns]    becomes    packed[column // width, steps, column % width]

Packing is a kernel of its own, so that `prepare_weights` runs it once at load: the artifact keeps
the weights as the model has them. After Goto & van de Geijn, "Anatomy of High-Performance Matrix
Multiplication" (2008), whose B panels these are.

Products of one left operand (queries, keys and values; gate and up) stay apart. As one product and
a split they took, on one thread, 0.97 to 1.04 of the time for 1 to 128 rows and widths from 64 to
2048: each product is at the limit of the ports or of the memory by itself, and the split is a copy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import IRModule, relax, te, tirx, topi

from nexus_compiler.codegen.choices import ANALYSIS, Choices
from nexus_compiler.codegen.llvm import (
    image_gradients,
    norms,
    pack_bytes,
    places,
    products,
    questions,
    sort_scan,
    winograd,
)
from nexus_compiler.codegen.llvm.schedules import build, tiles
from nexus_compiler.codegen.llvm.schedules.machine import Machine
from nexus_compiler.passes.legalize import Legalization, Legalize, default
from nexus_compiler.passes.weights import DONATED, bindings_of, partition, weights_of

_EPILOGUES_FUSE = {"op_pattern": 4}  # what TVM's fusion calls OutEWiseFusable
_PACKED = ("float32",)


@dataclass(frozen=True)
class LegalizePacked(Legalize):
    """Products whose second operand follows from weights are packed; the others are TVM's.

    Stands behind `channels_last`, before `prepare_weights`.

    Attributes:
        vector_bits: bits of one vector register.
        vector_registers: how many there are.
        dot: the instruction for products of bytes (`limits.dot` of the target).
        choices: what was measured of calls.
    """

    name: ClassVar[str] = "legalize_packed"

    vector_bits: int = 256
    vector_registers: int = 16
    dot: str = ""
    choices: Choices = ANALYSIS

    def kernels(self, module: IRModule) -> dict[str, Legalization]:
        """Those of `Legalize`, and the packed products."""
        known: set[relax.Var] = set()
        changing: set[relax.Var] = set()
        for function in module.functions.values():
            if isinstance(function, relax.Function) and (found := bindings_of(function)):
                known |= _following(found, weights_of(function))
                changing |= _following(found, _changing(function))
        machine = Machine(self.vector_bits, self.vector_registers, 0, self.dot)
        turned = products.transposed(module)
        packed = {
            name: _packed(name, machine, known, changing, turned, self.choices) for name in _KERNELS
        }
        return (
            super().kernels(module)
            | packed
            | image_gradients.KERNELS
            | norms.KERNELS
            | places.KERNELS
            | sort_scan.KERNELS
        )


def _following(bindings: list[relax.VarBinding], weights: list[relax.Var]) -> set[relax.Var]:
    return {*weights, *(binding.var for binding in partition(bindings, weights)[0])}


def _changing(function: relax.Function) -> list[relax.Var]:
    """Windows that each call changes: they are packed in each call, which is little beside it."""
    given = (int(place) for place in (function.attrs or {}).get(DONATED, ()))
    donated = [function.params[place] for place in given if place >= 0]
    return [variable for variable in donated if variable.ty.ndim > 2]


def _packed(
    operator: str,
    machine: Machine,
    known: set[relax.Var],
    changing: set[relax.Var],
    turned: dict[relax.Var, relax.Var],
    choices: Choices,
) -> Legalization:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        weight = call.args[1]
        if operator == "relax.nn.conv2d" and image_gradients.is_weight_gradient(call):
            return image_gradients.emit_weight_gradient(builder, call)
        if weight in known and pack_bytes.is_packable(operator, call):
            return pack_bytes.legalized(builder, operator, call, machine)
        if weight not in known | changing or not _is_packable(operator, call):
            if operator == "relax.matmul" and products.reads_turned(call, turned):
                return products.emit(builder, call, turned)
            return default(operator)(builder, call)
        if weight in changing:
            first, *_ = _ways(operator, call, machine, changing=True).values()
            return first(builder, call)
        ways = _ways(operator, call, machine)
        way = questions.guided_call(
            choices,
            LegalizePacked.name,
            operator,
            call,
            lambda guide: guide.take("packing", ways),
        )
        return way(builder, call)

    return legalize


def _ways(
    operator: str, call: relax.Call, machine: Machine, *, changing: bool = False
) -> dict[str, Legalization]:
    """The fork "packing": how wide tiles are, and of what; best first."""
    weight = call.args[1].ty
    rows = build.known(build.product(list(call.ty.shape)[:-1]))
    columns, pitch = int(weight.shape[-1]), _pitch(operator, call)
    found = tiles.candidates(rows, columns, str(weight.dtype), machine, pitch=pitch)
    own = {
        f"direct {one.vectors}": functools.partial(_direct, operator, one.columns)
        for one in (found if rows else found[:1])
    }
    if operator != "relax.nn.conv2d" or not winograd.fits(call):
        return own
    pitch = int(weight.shape[-2]) * 4
    count = winograd.tile_count(call)
    found = tiles.candidates(count, columns, str(weight.dtype), machine, pitch=pitch)
    others = {
        f"winograd {one.vectors}": functools.partial(_by_winograd, one.columns) for one in found
    }
    return others | own if winograd.pays(call, changing=changing) else own | others


def _direct(operator: str, width: int, builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, weight = call.args
    return builder.call_te(
        _KERNELS[operator],
        x,
        builder.emit(builder.call_te(pack, weight, width)),
        int(weight.ty.shape[-1]),
        *_window(operator, call),
        primfunc_name_hint=operator.rsplit(".", 1)[1],
        primfunc_attrs=_EPILOGUES_FUSE,
    )


def _by_winograd(width: int, builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, weight = call.args
    n, rows, columns, filters = (int(size) for size in call.ty.shape)
    padding = [int(p) for p in call.attrs.padding]
    values = builder.emit(builder.call_te(winograd.transformed, x, rows, columns, padding))
    packed = builder.emit(builder.call_te(winograd.kernels, weight, winograd.matrix(), width))
    found = builder.emit(
        builder.call_te(winograd.products, values, packed, filters, primfunc_attrs=_EPILOGUES_FUSE)
    )
    return builder.call_te(
        winograd.results, found, n, rows, columns, primfunc_attrs=_EPILOGUES_FUSE
    )


def _is_packable(operator: str, call: relax.Call) -> bool:
    x, weight = (argument.ty for argument in call.args)
    kinds = {str(ty.dtype) for ty in (x, weight, call.ty)}
    if len(kinds) > 1 or not kinds.issubset(_PACKED) or weight.shape is None or x.shape is None:
        return False
    if operator == "relax.matmul":
        return weight.ndim == 2 and x.ndim >= 2
    if operator == "relax.nn.conv2d":
        attrs = call.attrs
        if int(weight.shape[-1]) == 1:
            return False  # the channels of one filter lie in order as they are
        return attrs.groups == 1 and (attrs.data_layout, attrs.kernel_layout) == ("NHWC", "HWIO")
    return False


def _pitch(operator: str, call: relax.Call) -> int:
    """Bytes from one row of tiles to the next, as `Product.pitch`."""
    stride = 1 if operator == "relax.matmul" else int(call.attrs.strides[-1])
    size = build.known(call.args[0].ty.shape[-1]) or 0
    return stride * size * (tvm.DataType(str(call.args[0].ty.dtype)).bits // 8)


def _window(operator: str, call: relax.Call) -> tuple[Any, ...]:
    if operator == "relax.matmul":
        return ()
    return tuple([int(n) for n in call.attrs[key]] for key in ("strides", "padding", "dilation"))


def pack(weight: te.Tensor, width: int) -> te.Tensor:
    """[steps..., columns] as [columns / width, steps..., width]; zeros behind the last column."""
    *steps, columns = weight.shape
    count = -(-int(columns) // width)

    def element(tile: Any, *rest: Any) -> Any:
        column = tile * width + rest[-1]
        value = weight(*rest[:-1], column)
        if int(columns) % width == 0:
            return value
        return tirx.if_then_else(column < columns, value, tirx.const(0, weight.dtype))

    return te.compute((count, *steps, width), element, name="packed")


def matmul(x: te.Tensor, packed: te.Tensor, columns: int) -> te.Tensor:
    """x[..., rows, steps] times packed weights."""
    width = packed.shape[-1]
    k = te.reduce_axis((0, x.shape[-1]), "k")

    def element(*place: Any) -> Any:
        *rows, column = place
        right = packed(tirx.floordiv(column, width), k, tirx.floormod(column, width))
        return te.sum(x(*rows, k) * right, axis=k)

    return te.compute((*x.shape[:-1], columns), element, name="matmul")


def convolution(
    x: te.Tensor,
    packed: te.Tensor,
    columns: int,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> te.Tensor:
    """x[n, y..., channels] with windows of packed weights [tile, y..., channels, column]."""
    _, *window, channels, width = packed.shape
    rank = len(window)
    if any(padding):
        x = topi.nn.pad(x, [0, *padding[:rank], 0], [0, *padding[rank:], 0], name="padded")
    sizes = [
        (extent - (size - 1) * d - 1) // s + 1
        for extent, size, s, d in zip(x.shape[1:-1], window, strides, dilation)
    ]
    taps = [te.reduce_axis((0, size), f"r{i}") for i, size in enumerate(window)]
    c = te.reduce_axis((0, channels), "c")

    def element(n: Any, *place: Any) -> Any:
        *pixel, column = place
        seen = [p * s + t * d for p, s, t, d in zip(pixel, strides, taps, dilation)]
        right = packed(tirx.floordiv(column, width), *taps, c, tirx.floormod(column, width))
        return te.sum(x(n, *seen, c) * right, axis=[*taps, c])

    return te.compute((x.shape[0], *sizes, columns), element, name="convolution")


_KERNELS = {"relax.matmul": matmul, "relax.nn.conv2d": convolution}
