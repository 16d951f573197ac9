"""Convolutions and transposed convolutions in one, two and three dimensions, any plain layout."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from nexus_compiler.codegen.xla.operators.matmul import operands
from nexus_compiler.codegen.xla.registry import Node, ints, operator


def padding_pairs(padding: Any, rank: int) -> list[tuple[int, int]]:
    """Relax's padding (all "before" and then all "after") as one pair per spatial axis."""
    flat = ints(padding)
    if len(flat) == rank:
        flat *= 2
    return [(flat[axis], flat[axis + rank]) for axis in range(rank)]


def _layouts(node: Node) -> tuple[str, str, str]:
    attrs = node.attrs
    data, kernel = str(attrs.data_layout), str(attrs.kernel_layout)
    out = str(attrs.out_layout) or data
    for layout in (data, kernel, out):
        if not layout.isupper():
            raise node.refuse(
                f"the packed layout {layout}", hint="use a plain layout such as NCHW and OIHW"
            )
    return data, kernel, out


@operator("nn.conv1d", "nn.conv2d", "nn.conv3d")
def conv(node: Node) -> Any:
    """Convolution with strides, padding, dilation and groups."""
    attrs, (data, kernel) = node.attrs, operands(node, 2)
    return lax.conv_general_dilated(
        data,
        kernel,
        window_strides=ints(attrs.strides),
        padding=padding_pairs(attrs.padding, data.ndim - 2),
        rhs_dilation=ints(attrs.dilation),
        dimension_numbers=_layouts(node),
        feature_group_count=int(attrs.groups),
        preferred_element_type=node.dtype,
    )


@operator("nn.conv1d_transpose", "nn.conv2d_transpose", "nn.conv3d_transpose")
def conv_transpose(node: Node) -> Any:
    """The gradient of a convolution as an operator: a convolution of the stretched data.

    The kernel [in, out / groups, ...] is turned into the forward kernel of the equivalent
    convolution: flipped in space, and in and out exchanged within each group.
    """
    attrs, (data, kernel) = node.attrs, operands(node, 2)
    data_layout, kernel_layout, out_layout = _layouts(node)
    spatial = "".join(letter for letter in kernel_layout if letter not in "IO")
    kernel = jnp.transpose(kernel, [kernel_layout.index(letter) for letter in "IO" + spatial])
    groups = int(attrs.groups)
    inner, outer, *window = kernel.shape
    kernel = kernel.reshape(groups, inner // groups, outer, *window).swapaxes(1, 2)
    kernel = kernel.reshape(groups * outer, inner // groups, *window)
    kernel = jnp.flip(kernel, axis=tuple(range(2, kernel.ndim)))
    dilation = ints(attrs.dilation)
    padding = [
        (step * (size - 1) - before, step * (size - 1) - after + extra)
        for step, size, (before, after), extra in zip(
            dilation,
            window,
            padding_pairs(attrs.padding, len(window)),
            ints(attrs.output_padding),
        )
    ]
    return lax.conv_general_dilated(
        data,
        kernel,
        window_strides=[1] * len(window),
        padding=padding,
        lhs_dilation=ints(attrs.strides),
        rhs_dilation=dilation,
        dimension_numbers=(data_layout, "OI" + spatial, out_layout),
        feature_group_count=groups,
        preferred_element_type=node.dtype,
    )
