"""Normalisations, with the statistics that their gradients read."""

from __future__ import annotations

import functools
from typing import Any

from tvm import relax

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.node import Node, dtype_of
from nexus_compiler.frontend.torch.reduce import variance
from nexus_compiler.frontend.torch.registry import Handler, op
from nexus_compiler.frontend.torch.sizes import Size
from nexus_compiler.frontend.torch.values import R, dtype_name


class _Wide(Node):
    """A node whose tensors are all float32."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return self.cast(value, "float32") if isinstance(value, relax.Expr) else value


def _in_one_dtype(handler: Handler) -> Handler:
    """Decorator: calculates in float32 where dtypes differ, as under autocast, or are bfloat16."""

    @functools.wraps(handler)
    def translate(node: Node) -> Any:
        names = [n for n in ("input", "weight", "bias", "running_mean", "running_var") if n in node]
        kinds = {dtype_of(node[name]) for name in names}
        if len(kinds) == 1 and kinds != {"bfloat16"}:  # of which TVM has no kernels
            return handler(node)
        found = handler(_Wide(node.fx, node.importer))
        if not isinstance(found, list):
            return node.cast(node.emit(found), node.dtype)
        return [
            None if one is None else node.cast(node.emit(one), dtype_name(fake.dtype))
            for one, fake in zip(found, node.out)
        ]

    return translate


@op("layer_norm", "native_layer_norm")
@_in_one_dtype
def layer_norm(node: Node) -> Any:
    """Over the last axes; the native form also returns mean and 1/deviation."""
    x = node["input"]
    inner = node["normalized_shape"]
    axes = list(range(node.rank("input") - len(inner), node.rank("input")))
    dtype = dtype_of(x)
    whole = node.kind == "layer_norm"
    if whole or not (node.reads(1) or node.reads(2)):
        scale = node["weight"] if "weight" in node else node.full(inner, 1, dtype)
        shift = node["bias"] if "bias" in node else node.full(inner, 0, dtype)
        result = R.nn.layer_norm(x, scale, shift, axes, float(node["eps"]))
        return result if whole else [result, None, None]
    mean, inverse = _moments(node, x, axes, node["eps"])
    result = R.multiply(R.subtract(x, mean), inverse)
    if "weight" in node:
        result = R.multiply(result, node["weight"])
    if "bias" in node:
        result = R.add(result, node["bias"])
    return [result, *_statistics(node, mean, inverse)]


def _moments(node: Node, x: Any, axes: list[int], epsilon: float) -> tuple[Any, Any]:
    """Mean and 1/deviation, with the axes kept."""
    dtype = dtype_of(x)
    mean = node.emit(R.mean(x, axes, True))
    away = node.emit(R.subtract(x, mean))
    spread = R.mean(R.multiply(away, away), axes, True)
    return mean, node.emit(R.rsqrt(R.add(spread, node.scalar(epsilon, dtype))))


def _statistics(node: Node, mean: Any, inverse: Any) -> list[Any]:
    dtypes = [str(node.out[index].dtype).removeprefix("torch.") for index in (1, 2)]
    return [
        node.cast(node.reshape(value, node.shapes(index)), dtype)
        for value, index, dtype in zip((mean, inverse), (1, 2), dtypes)
    ]


@op("rms_norm")
@_in_one_dtype
def rms_norm(node: Node) -> Any:
    """Scaling by the root of the mean square of the last axes."""
    x, inner = node["input"], node["normalized_shape"]
    axes = list(range(node.rank("input") - len(inner), node.rank("input")))
    dtype = dtype_of(x)
    epsilon = node["eps"] if "eps" in node else 2.0**-23
    mean = R.mean(R.multiply(x, x), axes, True)
    result = R.multiply(x, R.rsqrt(R.add(mean, node.scalar(epsilon, dtype))))
    return R.multiply(result, node["weight"]) if "weight" in node else result


@op("native_group_norm")
@_in_one_dtype
def group_norm(node: Node) -> list[Any]:
    """Over groups of channels and all pixels; also mean and 1/deviation."""
    x = node["input"]
    shape = node.shape
    batch, channels, groups = shape[0], shape[1], node["group"]
    if not (node.reads(1) or node.reads(2)):
        dtype = dtype_of(x)
        scale = node["weight"] if "weight" in node else node.full([channels], 1, dtype)
        shift = node["bias"] if "bias" in node else node.full([channels], 0, dtype)
        axes = list(range(2, len(shape)))
        return [R.nn.group_norm(x, scale, shift, groups, 1, axes, float(node["eps"])), None, None]
    grouped = node.reshape(x, [batch, groups, channels // groups, sizes.product(shape[2:])])
    mean, inverse = _moments(node, grouped, [2, 3], node["eps"])
    normal = node.emit(R.multiply(R.subtract(grouped, mean), inverse))
    result = _affine(node, node.reshape(normal, shape), channels)
    return [result, *_statistics(node, mean, inverse)]


def _affine(node: Node, value: Any, channels: Size) -> Any:
    """Scale and shift by channel."""
    line = [1, channels, *([1] * (len(node.shape) - 2))]
    if "weight" in node:
        value = R.multiply(value, node.reshape(node["weight"], line))
    if "bias" in node:
        value = R.add(value, node.reshape(node["bias"], line))
    return value


@op("_native_batch_norm_legit_no_training")
@_in_one_dtype
def batch_norm(node: Node) -> list[Any]:
    """With the stored statistics."""
    return [_with_stored_statistics(node, node["eps"]), None, None]


def _with_stored_statistics(node: Node, epsilon: float) -> relax.Expr:
    x = node["input"]
    channels, dtype = node.shape[1], dtype_of(x)
    scale = node["weight"] if "weight" in node else node.full([channels], 1, dtype)
    shift = node["bias"] if "bias" in node else node.full([channels], 0, dtype)
    mean, spread = node["running_mean"], node["running_var"]
    result = R.nn.batch_norm(
        x, scale, shift, mean, spread, axis=1, epsilon=float(epsilon), training=False
    )
    return relax.TupleGetItem(node.emit(result), 0)


@op(
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit",
    "native_batch_norm",
    "_batch_norm_with_update_functional",
)
@_in_one_dtype
def batch_norm_training(node: Node) -> list[Any]:
    """With the statistics of the batch; also these, and the stored ones moved towards them."""
    if not node.get("training", True):
        if any(map(node.reads, range(1, len(node.out)))):
            return _stored_with_results(node)
        rest = [None] * (len(node.out) - 1)
        return [_with_stored_statistics(node, node["eps"]), *rest]
    x, shape = node["input"], node.shape
    axes = [axis for axis in range(len(shape)) if axis != 1]
    dtype = dtype_of(x)
    mean = node.emit(R.mean(x, axes, True))
    biased = node.emit(variance(node, x, axes, [shape[axis] for axis in axes], 0, keep=True))
    inverse = node.emit(R.rsqrt(R.add(biased, node.scalar(node["eps"], dtype))))
    result = _affine(node, R.multiply(R.subtract(x, mean), inverse), shape[1])
    results = [result, *_statistics(node, mean, inverse)]
    if "running_mean" in node and len(node.out) > 3:
        count = sizes.product(shape[axis] for axis in axes)
        unbias = R.divide(node.scalar(count, dtype), node.scalar(count - 1, dtype))
        spread = node.emit(R.multiply(biased, unbias))
        results += _moved(node, mean, spread, len(results))
    return results


def _moved(node: Node, mean: Any, spread: Any, position: int) -> list[Any]:
    momentum = node["momentum"]
    moved: list[Any] = []
    for name, value in (("running_mean", mean), ("running_var", spread)):
        old = node[name]
        dtype = dtype_of(old)
        new = node.cast(node.reshape(value, node.shape_of(name)), dtype)
        moved.append(
            R.add(
                R.multiply(old, node.scalar(1 - momentum, dtype)),
                R.multiply(new, node.scalar(momentum, dtype)),
            )
        )
    if len(node.out) > position + 2:
        raise node.refuse("it has reserved memory as a result")
    return moved


def _stored_with_results(node: Node) -> list[Any]:
    empty = [node.full(node.shapes(index), 0, node.dtype) for index in (1, 2)]
    rest = [node["running_mean"], node["running_var"]][: len(node.out) - 3]
    return [_with_stored_statistics(node, node["eps"]), *empty, *rest]
