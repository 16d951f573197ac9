"""Packs weights of 8 bits for products of bytes.

    w[step, column]  becomes  packed[column // width, step // depth, column % width, step % depth]

`depth` is how many neighbouring steps one instruction takes (`schedules/dot.py`). The other operand
is continued by zeros where its last axis is no multiple of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from nexus_compiler.codegen.llvm.schedules import build, dot, tiles
from nexus_compiler.codegen.llvm.schedules.machine import Machine

_EPILOGUES_FUSE = {"op_pattern": 4}  # what TVM's fusion calls OutEWiseFusable
_SUM = "int32"


def is_packable(operator: str, call: relax.Call) -> bool:
    """Whether the call is a product of bytes, summed in int32, that has a kernel here."""
    x, weight = (argument.ty for argument in call.args)
    kinds = (str(x.dtype), str(weight.dtype), str(call.ty.dtype))
    if kinds not in (("uint8", "int8", _SUM), ("int8", "int8", _SUM)):
        return False
    if x.shape is None or weight.shape is None or build.known(x.shape[-1]) is None:
        return False
    if operator == "relax.matmul":
        return weight.ndim == 2 and x.ndim >= 2
    if operator == "relax.nn.conv2d":
        attrs = call.attrs
        return attrs.groups == 1 and (attrs.data_layout, attrs.kernel_layout) == ("NHWC", "HWIO")
    return False


def legalized(
    builder: relax.BlockBuilder, operator: str, call: relax.Call, machine: Machine
) -> relax.Expr:
    """The packing of the weights, and the product with them."""
    x, weight = call.args
    own = dot.instruction(machine.dot)
    rows = build.known(build.product(list(call.ty.shape)[:-1]))
    columns = int(weight.ty.shape[-1])
    width = tiles.choose(rows, columns, _SUM, machine).columns
    packed = builder.emit(builder.call_te(pack, weight, width, own.depth, own.right))
    name = operator.rsplit(".", 1)[1]
    if operator == "relax.matmul":
        window: list[list[int]] = [[], [], []]
    else:
        keys = ("strides", "padding", "dilation")
        window = [[int(n) for n in call.attrs[key]] for key in keys]
    return builder.call_te(
        product,
        x,
        packed,
        columns,
        *window,
        primfunc_name_hint=f"{name}_bytes",
        primfunc_attrs=_EPILOGUES_FUSE,
    )


def pack(weight: te.Tensor, width: int, depth: int, dtype: str) -> te.Tensor:
    """[steps..., channels, columns] as [tile, steps..., channels / depth, width, depth]."""
    *window, channels, columns = (int(size) for size in weight.shape)
    tiles_, groups = -(-columns // width), -(-channels // depth)

    def element(tile: Any, *place: Any) -> Any:
        *taps, group, lane, one = place
        column, channel = tile * width + lane, group * depth + one
        value = weight(*taps, channel, column).astype(dtype)
        inside = []
        if columns % width:
            inside.append(column < columns)
        if channels % depth:
            inside.append(channel < channels)
        if not inside:
            return value
        return tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, dtype))

    return te.compute((tiles_, *window, groups, width, depth), element, name="packed")


def product(
    x: te.Tensor,
    packed: te.Tensor,
    columns: int,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> te.Tensor:
    """x[rows..., channels], or windows of x[n, y, x, channels], times packed weights, in int32."""
    _, *window, groups, width, depth = (int(size) for size in packed.shape)
    rank = len(window)
    x = _continued(x, [*padding[:rank]], [*padding[rank:]], groups * depth)
    taps = [te.reduce_axis((0, size), f"r{i}") for i, size in enumerate(window)]
    group, one = te.reduce_axis((0, groups), "c"), te.reduce_axis((0, depth), "one")
    sizes = [
        (extent - (size - 1) * d - 1) // s + 1
        for extent, size, s, d in zip(x.shape[1:-1], window, strides, dilation)
    ]

    def element(*place: Any) -> Any:
        *row, column = place
        if window:
            n, *pixel = row
            row = [n, *(p * s + t * d for p, s, t, d in zip(pixel, strides, taps, dilation))]
        at = [tirx.floordiv(column, width), *taps, group, tirx.floormod(column, width), one]
        left, right = x(*row, group * depth + one), packed(*at)
        return te.sum(left.astype(_SUM) * right.astype(_SUM), axis=[*taps, group, one])

    shape = (x.shape[0], *sizes) if window else tuple(x.shape[:-1])
    return te.compute((*shape, columns), element, name="product")


def _continued(x: te.Tensor, before: list[int], after: list[int], channels: int) -> te.Tensor:
    """`x` with zeros around its image and behind its channels."""
    *lead, own = x.shape
    if not any([*before, *after]) and int(own) == channels:
        return x
    image = [0] * len(before)
    first = 1 if before else 0
    shape = list(lead)
    for i in range(len(image)):
        shape[first + i] = shape[first + i] + before[i] + after[i]

    def element(*place: Any) -> Any:
        inner, inside = list(place), []
        for i, begin in enumerate(before):
            axis = first + i
            inner[axis] = place[axis] - begin
            if begin:
                inside.append(place[axis] >= begin)
            if begin or after[i]:
                inside.append(inner[axis] < x.shape[axis])
        if int(own) != channels:
            inside.append(place[-1] < own)
        return tirx.if_then_else(tirx.all(*inside), x(*inner), tirx.const(0, x.dtype))

    return te.compute((*shape, channels), element, name="padded")
