"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tvm import relax

from nexus_compiler.frontend.onnx import windows
from nexus_compiler.frontend.onnx.node import Node
from nexus_compiler.frontend.onnx.precision import summed
from nexus_compiler.frontend.onnx.registry import op
from nexus_compiler.frontend.onnx.sizes import Size
from nexus_compiler.frontend.onnx.values import R, Value
from nexus_compiler.frontend.onnx.windows import Window

CONV = {1: R.nn.conv1d, 2: R.nn.conv2d, 3: R.nn.conv3d}
_TRANSPOSE = {1: R.nn.conv1d_transpose, 2: R.nn.conv2d_transpose, 3: R.nn.conv3d_transpose}


@op("Conv")
def conv(node: Node) -> Value:
    """Convolution over 1, 2 or 3 spatial axes."""
    x, weight = node.tensor(0), node.tensor(1)
    shape, kernel = node.shape(x), kernel_of(node, weight)
    window, groups = windows.read(node, kernel, shape[2:]), node.attr("group")
    return _biased(node, convolved(node, x, weight, window, groups), len(kernel))


def convolved(
    node: Node, x: relax.Expr, weight: relax.Expr, window: Window, groups: int
) -> relax.Expr:
    """A convolution without a bias."""
    if len(window.kernel) == 1 and groups > 1:
        return summed(node, lambda a, b: _grouped_line(node, a, b, window, groups), x, weight)
    make = partial(
        CONV[len(window.kernel)],
        strides=window.strides,
        padding=window.pads,
        dilation=window.dilations,
        groups=groups,
    )
    return summed(node, make, x, weight)


def _grouped_line(
    node: Node, x: relax.Expr, weight: relax.Expr, window: Window, groups: int
) -> relax.Expr:
    """A grouped convolution over one axis as one over two: TVM's kernel of the first is broken."""
    before, after = window.pads
    plane = R.nn.conv2d(
        R.expand_dims(x, [2]),
        R.expand_dims(weight, [2]),
        strides=(1, *window.strides),
        padding=(0, before, 0, after),
        dilation=(1, *window.dilations),
        groups=groups,
    )
    return node.emit(R.squeeze(node.emit(plane), [2]))


def kernel_of(node: Node, weight: relax.Expr) -> list[int]:
    """The spatial sizes of a weight."""
    node.ignore("kernel_shape")  # it repeats the shape of the weight
    kernel = node.static(weight, "its weight")[2:]
    if len(kernel) not in CONV:
        raise node.refuse(f"it has {len(kernel)} spatial axes; 1, 2 and 3 are handled")
    return kernel


def _biased(node: Node, result: relax.Expr, rank: int) -> relax.Expr:
    if not node.has(2):
        return result
    bias = node.tensor(2)
    return R.add(result, R.reshape(bias, [1, *node.shape(bias), *[1] * rank]))


@op("ConvTranspose")
def conv_transpose(node: Node) -> Value:
    """The transpose of a convolution."""
    x, weight = node.tensor(0), node.tensor(1)
    kernel = kernel_of(node, weight)
    extra = node.attr("output_padding") or [0] * len(kernel)
    window, extra = _transposed(node, kernel, node.shape(x)[2:], extra)
    make = partial(
        _TRANSPOSE[len(kernel)],
        strides=window.strides,
        padding=window.pads,
        output_padding=tuple(extra),
        dilation=window.dilations,
        groups=node.attr("group"),
    )
    return _biased(node, summed(node, make, x, weight), len(kernel))


def _transposed(
    node: Node, kernel: Sequence[int], spatial: Sequence[Size], extra: Sequence[int]
) -> tuple[Window, list[int]]:
    """The window, and how much the output grows at its end."""
    rank = len(kernel)
    strides = tuple(node.attr("strides") or [1] * rank)
    dilations = tuple(node.attr("dilations") or [1] * rank)
    window = Window(tuple(kernel), strides, dilations, tuple(node.attr("pads") or [0] * 2 * rank))
    mode, wanted = node.attr("auto_pad"), node.attr("output_shape")
    if wanted is None and mode not in {"SAME_UPPER", "SAME_LOWER"}:
        return window, list(extra)
    totals: list[int] = []
    extra = list(extra)
    for axis, size in enumerate(spatial):
        full = strides[axis] * (size - 1) + extra[axis] + window.span(axis)
        target = wanted[axis - rank] if wanted else size * strides[axis]
        total = node.sizes.simple(full - target)
        if not isinstance(total, int):
            raise node.refuse("its padding depends on the input", "fix the sizes with `shapes=`")
        totals.append(max(total, 0))
        extra[axis] += max(-total, 0)
    # ONNX gives the odd element to the end for SAME_UPPER only.
    pads = windows.split_pads(totals, upper=mode == "SAME_UPPER")
    return Window(window.kernel, strides, dilations, pads), extra
