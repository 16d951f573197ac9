"""Convolutions.

The gradient by the input of a convolution is a transposed convolution, and the other way round;
the gradient by the weight is a convolution in which samples and channels change places (Dumoulin
and Visin 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from nexus_compiler.passes.gradients.rule import Rule, Site, dims
from nexus_runtime.errors import UnsupportedOperator

op = relax.op


def _conv2d(site: Site) -> Sequence[relax.Expr | None]:
    """TVM's own for groups, unless the window is dilated, which its rule forgets."""
    _need_layout(site, "OIHW")
    if int(site.attrs.groups) > 1 and all(int(d) == 1 for d in site.attrs.dilation):
        return site.tvm()
    data, weight = site.args
    figures = _figures(site)
    return [
        _by_data(site, site.adjoint, weight, dims(data), figures),
        _by_weight(site, data, site.adjoint, dims(weight), figures),
    ]


def _conv1d(site: Site) -> Sequence[relax.Expr | None]:
    """As over two axes, of which the first is 1 long."""
    data, weight = site.args
    figures = _figures(site)
    plane, window, adjoint = (_plane(site, value) for value in (data, weight, site.adjoint))
    by_data = _by_data(site, adjoint, window, dims(plane), figures)
    by_weight = _by_weight(site, plane, adjoint, dims(window), figures)
    return [site.like(by_data, data), site.like(by_weight, weight)]


def _conv2d_transpose(site: Site) -> Sequence[relax.Expr | None]:
    """Here the adjoint is what a convolution would take, and the data what it would make."""
    _need_layout(site, "IOHW")
    data, weight = site.args
    figures = _figures(site)
    return [
        _convolve(site, site.adjoint, weight, figures),
        _by_weight(site, site.adjoint, data, dims(weight), figures),
    ]


def _conv1d_transpose(site: Site) -> Sequence[relax.Expr | None]:
    data, weight = site.args
    figures = _figures(site)
    plane, window, adjoint = (_plane(site, value) for value in (data, weight, site.adjoint))
    by_data = _convolve(site, adjoint, window, figures)
    by_weight = _by_weight(site, adjoint, plane, dims(window), figures)
    return [site.like(by_data, data), site.like(by_weight, weight)]


def _need_layout(site: Site, kernel: str) -> None:
    attrs = site.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != kernel:
        raise UnsupportedOperator(
            f"{site.call.op.name} over {attrs.data_layout} has no gradient",
            hint="use the layout (batch, channels, height, width)",
        )


def _plane(site: Site, value: relax.Expr) -> relax.Var:
    batch, channels, length = dims(value)
    return site.reshape(value, [batch, channels, 1, length])


def _figures(site: Site) -> dict[str, Any]:
    """The attributes of a convolution over two axes that would do the same."""
    attrs = site.attrs
    pads = [int(pad) for pad in attrs.padding]
    strides, dilation = [int(s) for s in attrs.strides], [int(d) for d in attrs.dilation]
    if len(strides) == 1:
        pads, strides, dilation = [0, pads[0], 0, pads[1]], [1, *strides], [1, *dilation]
    return {
        "strides": strides,
        "padding": pads,
        "dilation": dilation,
        "groups": int(attrs.groups),
    }


def _convolve(
    site: Site, data: relax.Expr, weight: relax.Expr, figures: dict[str, Any]
) -> relax.Var:
    return site.put(op.nn.conv2d(data, weight, **figures))


def _by_data(
    site: Site,
    adjoint: relax.Expr,
    weight: relax.Expr,
    shape: Sequence[Any],
    figures: dict[str, Any],
) -> relax.Expr:
    """The gradient by data of `shape`.

    TVM's transposed convolution takes no dilation: a dilated window is written out with zeros.
    """
    window = _dilated(site, weight, figures["dilation"])
    high, wide = dims(window)[2:]
    top, left, bottom, right = figures["padding"]
    back = [high - 1 - top, wide - 1 - left, high - 1 - bottom, wide - 1 - right]
    if figures["strides"] == [1, 1] and figures["groups"] == 1 and min(back) >= 0:
        # With no stride the transposed convolution is one with the window turned about.
        around = site.put(op.flip(site.put(op.flip(window, 2)), 3))
        turned = site.put(op.permute_dims(around, [1, 0, 2, 3]))
        return site.put(op.nn.conv2d(adjoint, turned, padding=back))
    pads, missing = figures["padding"], list[int]()
    for axis in (0, 1):
        back = (dims(adjoint)[2 + axis] - 1) * figures["strides"][axis] + dims(window)[2 + axis]
        missing.append(shape[2 + axis] - (back - pads[axis] - pads[axis + 2]))
    # What no window reached, at the end, may be more than a stride: it gets zeros.
    return site.put(
        op.nn.conv2d_transpose(
            _grown(site, adjoint, missing, figures["strides"]),
            window,
            strides=figures["strides"],
            padding=pads,
            output_padding=[m % s for m, s in zip(missing, figures["strides"])],
            groups=figures["groups"],
        )
    )


def _grown(
    site: Site, adjoint: relax.Expr, missing: Sequence[int], strides: Sequence[int]
) -> relax.Expr:
    """Zeros behind the adjoint, one for each whole stride that no window reached."""
    more = [m // s for m, s in zip(missing, strides)]
    if not any(more):
        return adjoint
    return site.put(op.nn.pad(adjoint, [0, 0, 0, 0, 0, more[0], 0, more[1]], "constant"))


def _dilated(site: Site, weight: relax.Expr, dilation: Sequence[int]) -> relax.Expr:
    """The window with zeros between its values."""
    if all(d == 1 for d in dilation):
        return weight
    outer, inner, height, width = dims(weight)
    rows, columns = dilation
    thin = site.reshape(weight, [outer, inner, height, 1, width, 1])
    wide = [0] * 12
    wide[7], wide[11] = rows - 1, columns - 1
    spaced = site.put(op.nn.pad(thin, wide, "constant"))
    whole = site.reshape(spaced, [outer, inner, height * rows, width * columns])
    ends = [(height - 1) * rows + 1, (width - 1) * columns + 1]
    return site.put(op.strided_slice(whole, [2, 3], [0, 0], ends))


def _by_weight(
    site: Site,
    data: relax.Expr,
    adjoint: relax.Expr,
    shape: Sequence[Any],
    figures: dict[str, Any],
) -> relax.Expr:
    """The gradient by a weight of `shape` (out, in / groups, height, width)."""
    groups = figures["groups"]
    padding, data = _reached(site, data, adjoint, shape, figures)
    batch, channels, height, width = dims(data)
    if groups == 1:
        turned = site.put(op.permute_dims(data, [1, 0, 2, 3]))
    else:
        split = [batch, groups, channels // groups, height, width]
        # (in / groups, groups * batch, ...): the samples of a group are its channels.
        turned = site.put(op.permute_dims(site.reshape(data, split), [2, 1, 0, 3, 4]))
        turned = site.reshape(turned, [channels // groups, groups * batch, height, width])
    window = site.put(op.permute_dims(adjoint, [1, 0, 2, 3]))
    found = site.put(
        op.nn.conv2d(
            turned,
            window,
            strides=figures["dilation"],
            padding=padding,
            dilation=figures["strides"],
            groups=groups,
        )
    )
    return site.put(op.permute_dims(found, [1, 0, 2, 3]))


def _reached(
    site: Site, data: relax.Expr, adjoint: relax.Expr, shape: Sequence[Any], figures: dict[str, Any]
) -> tuple[list[int], relax.Expr]:
    """The padding and the data without what lies behind the last window."""
    padding, sizes = list(figures["padding"]), dims(data)[2:]
    ends = list(sizes)
    for axis in (0, 1):
        last = (dims(adjoint)[2 + axis] - 1) * figures["strides"][axis]
        reach = last + (shape[2 + axis] - 1) * figures["dilation"][axis] + 1
        over = sizes[axis] + padding[axis] + padding[axis + 2] - reach
        cut = min(over, padding[axis + 2])
        padding[axis + 2] -= cut
        ends[axis] -= over - cut
    if ends != sizes:
        data = site.put(op.strided_slice(data, [2, 3], [0, 0], ends))
    return padding, data


RULES: dict[str, Rule] = {
    "nn.conv1d": _conv1d,
    "nn.conv1d_transpose": _conv1d_transpose,
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
}
