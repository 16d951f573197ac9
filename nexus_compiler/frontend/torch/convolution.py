"""Convolutions, transposed ones, and the gradients of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import sizes, windows
from nexus_compiler.frontend.torch.border import pad
from nexus_compiler.frontend.torch.node import Node
from nexus_compiler.frontend.torch.registry import op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R
from nexus_compiler.frontend.torch.windows import Window


@op("convolution", "convolution_overrideable")
def convolution(node: Node) -> Any:
    """A convolution over one to three axes, or a transposed one."""
    shape, weight = node.shape_of("input"), node.shape_of("weight")
    spec = windows.window(node, weight[2:])
    if node["transposed"]:
        result = spread_conv(
            node, node["input"], shape, node["weight"], weight, spec, node.shape[2:]
        )
    else:
        result = _conv(node, node["input"], node["weight"], spec, node["groups"])
    if "bias" not in node:
        return result
    line = [1, node.shape[1], *([1] * spec.rank)]
    return R.add(result, node.reshape(node["bias"], line))


def _conv(node: Node, x: Any, weight: Any, spec: Window, groups: int) -> relax.Var:
    if spec.rank == 1:
        return _as_image(node, x, weight, spec, groups)
    make = R.nn.conv2d if spec.rank == 2 else R.nn.conv3d
    return node.emit(
        make(x, weight, spec.stride, (*spec.padding, *spec.padding), spec.dilation, groups)
    )


def _as_image(node: Node, x: Any, weight: Any, spec: Window, groups: int) -> relax.Var:
    """A convolution over one axis as one over images of height 1: these have fast kernels."""
    image, kernel = (node.emit(R.expand_dims(one, [2])) for one in (x, weight))
    flat = Window((1, *spec.kernel), (1, *spec.stride), (0, *spec.padding), (1, *spec.dilation))
    return node.emit(R.squeeze(_conv(node, image, kernel, flat, groups), [2]))


def spread_conv(
    node: Node,
    x: Any,
    shape: Sequence[Size],
    weight: Any,
    weight_shape: Sequence[int],
    spec: Window,
    out: Sequence[Size],
) -> relax.Var:
    """The transpose of a convolution: each element of `x` adds its window of `weight` to `out`.

    Where `SubPixel` cannot turn it into a better one, this is a plain convolution of stride 1 over
    `x` with zeros between its elements.
    """
    groups = node["groups"] if "groups" in node else shape[1]
    extra = _output_padding(shape, spec, out)
    if extra is not None and groups == 1:
        return _transposed(node, x, weight, spec, extra)
    x = windows.stuffed(node, x, shape, spec.stride)
    pairs: list[tuple[Any, Any]] = [(0, 0), (0, 0)]
    for axis in range(spec.rank):
        reach = spec.dilation[axis] * (spec.kernel[axis] - 1)
        before = reach - spec.padding[axis]
        length = shape[axis + 2] * spec.stride[axis]
        after = out[axis] + reach - before - length
        pairs.append((before, sizes.number(after) if sizes.is_symbolic(after) else after))
    x = pad(node, x, pairs)
    inside, outside = weight_shape[:2]
    apart = [groups, inside // groups, outside, *spec.kernel]
    order = [0, 2, 1, *range(3, 3 + spec.rank)]
    turned = node.emit(R.permute_dims(node.reshape(weight, apart), order))
    turned = node.reshape(turned, [groups * outside, inside // groups, *spec.kernel])
    for axis in range(spec.rank):
        if spec.kernel[axis] > 1:
            turned = node.emit(R.flip(turned, axis + 2))
    plain = Window(spec.kernel, (1,) * spec.rank, (0,) * spec.rank, spec.dilation)
    return _conv(node, x, turned, plain, groups)


def _output_padding(
    shape: Sequence[Size], spec: Window, out: Sequence[Size]
) -> tuple[int, ...] | None:
    """What `out` has at the end beyond the last window; None if Relax's operator does not fit."""
    if spec.rank != 2 or set(spec.dilation) != {1} or set(spec.stride) == {1}:
        return None
    extra = [
        size - (length - 1) * stride + 2 * padding - kernel
        for size, length, stride, padding, kernel in zip(
            out, shape[2:], spec.stride, spec.padding, spec.kernel
        )
    ]
    known = [sizes.number(e) if sizes.is_symbolic(e) else e for e in extra]
    fits = all(isinstance(e, int) and 0 <= e < s for e, s in zip(known, spec.stride))
    return tuple(known) if fits else None


def _transposed(node: Node, x: Any, weight: Any, spec: Window, extra: tuple[int, ...]) -> relax.Var:
    return node.emit(
        R.nn.conv2d_transpose(
            x,
            weight,
            strides=spec.stride,
            padding=(*spec.padding, *spec.padding),
            output_padding=extra,
            kernel_layout="IOHW",
        )
    )


@op("convolution_backward")
def convolution_backward(node: Node) -> list[Any]:
    """The gradients of input, weight and bias, of those that `output_mask` asks for."""
    mask, transposed = node["output_mask"], node["transposed"]
    grad, x, weight = (node[name] for name in ("grad_output", "input", "weight"))
    grad_shape, shape = node.shape_of("grad_output"), node.shape_of("input")
    weight_shape = node.shape_of("weight")
    spec = windows.window(node, weight_shape[2:])
    results: list[Any] = [None, None, None]
    if mask[0] and transposed:
        results[0] = _cropped(node, _conv(node, grad, weight, spec, node["groups"]), shape)
    elif mask[0]:
        results[0] = spread_conv(node, grad, grad_shape, weight, weight_shape, spec, shape[2:])
    if mask[1]:
        images, grads = (x, shape), (grad, grad_shape)
        pair = (grads, images) if transposed else (images, grads)
        results[1] = _weight_gradient(node, *pair, spec, weight_shape)
    if mask[2]:
        results[2] = R.sum(grad, [0, *range(2, 2 + spec.rank)], False)
    return results


def _cropped(node: Node, x: Any, shape: Sequence[Size]) -> Any:
    """The front of `x`: output padding can leave room for one window more."""
    axes = list(range(2, len(shape)))
    if all(
        isinstance(s, int) and int(x.ty.shape.values[a]) == s
        for a, s in enumerate(shape)
        if a in axes and windows.is_static([s])
    ):
        return x
    ends = node.dims([shape[axis] for axis in axes])
    return R.strided_slice(x, axes, [0] * len(axes), ends, [1] * len(axes), assume_inbound=True)


def _weight_gradient(
    node: Node,
    images: tuple[Any, Sequence[Size]],
    grads: tuple[Any, Sequence[Size]],
    spec: Window,
    shape: Sequence[int],
) -> relax.Var:
    """One matrix product: (channels of grad, pixels) by (pixels, channels of x and places)."""
    grad, grad_shape = grads
    groups, out = node["groups"], grad_shape[2:]
    x = windows.padded(node, *images, spec, out, 0)
    pixels = sizes.product([grad_shape[0], *out])
    inner = shape[1] * groups
    taps = [windows.tap(node, x, spec, place, out) for place in spec.places()]
    ahead = [1, 0, *range(2, 2 + spec.rank)]  # channels first
    columns = [
        node.reshape(node.emit(R.permute_dims(one, ahead)), [inner, 1, pixels]) for one in taps
    ]
    patches = node.emit(R.concat(columns, 1)) if len(columns) > 1 else columns[0]
    patches = node.reshape(patches, [groups, shape[1] * len(taps), pixels])
    rows = node.emit(R.permute_dims(grad, ahead))
    rows = node.reshape(rows, [groups, grad_shape[1] // groups, pixels])
    product = R.matmul(rows, node.emit(R.permute_dims(patches, [0, 2, 1])))
    return node.reshape(node.emit(product), shape)
