"""PyTorch modules as functions of JAX: their exported graph, operator by operator.

A port by hand would be another network; this one is the same by construction, and `jax.jit` sees
plain `jax.numpy` and `jax.lax`. Weights are arguments, so that XLA does not fold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

_DTYPES = {torch.float32: jnp.float32, torch.int64: jnp.int32, torch.bool: jnp.bool_}


def port(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[Callable[..., Any], Any]:
    """A function of (weights, *inputs) that returns a tuple, and the weights.

    Raises:
        NotImplementedError: the graph holds an operator that is not in the table below.
    """
    exported = torch.export.export(module, args, strict=False)
    program = exported.run_decompositions(_KEPT)
    signature = program.graph_signature
    stored = {**program.state_dict, **program.constants}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    weights = {place: jnp.asarray(stored[name].detach().numpy()) for place, name in names.items()}
    results = len(signature.buffers_to_mutate)

    def call(values: dict[str, Any], *inputs: Any) -> tuple[Any, ...]:
        found = _run(program.graph_module.graph, values, inputs)
        return tuple(found[results:])

    call.origins = names  # type: ignore[attr-defined]
    return call, weights


def origin(function: Callable[..., Any], place: str) -> str:
    """The module's name of the weight at `place` of what `port` returned."""
    return function.origins[place]  # type: ignore[attr-defined]


def _run(graph: torch.fx.Graph, weights: dict[str, Any], inputs: tuple[Any, ...]) -> Any:
    known: dict[torch.fx.Node, Any] = {}
    given = iter(inputs)

    def value(node: torch.fx.Node) -> Any:
        return known[node]

    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = weights[node.name] if node.name in weights else next(given)
        elif node.op == "output":
            return torch.fx.map_arg(node.args[0], value)
        else:
            name = str(node.target).removeprefix("aten.")
            handler = _TABLE.get(name) or _TABLE.get(name.split(".")[0])
            if handler is None and "getitem" in str(node.target):
                handler = lambda x, i: x[i]  # noqa: E731
            if handler is None:
                raise NotImplementedError(f"no JAX for {node.target}")
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
            known[node] = handler(*args, **kwargs)
    raise AssertionError("a graph ends with its output")


def _convolution(
    x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    y = lax.conv_general_dilated(
        x,
        w,
        stride,
        [(p, p) for p in padding],
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return y if b is None else y + b[:, None, None]


def _conv2d(
    x: Any, w: Any, b: Any = None, stride: Any = (1, 1), padding: Any = (0, 0), *rest: Any
) -> Any:
    dilation, groups = (*rest, (1, 1), 1)[:2] if len(rest) != 1 else (rest[0], 1)
    return _convolution(x, w, b, stride, padding, dilation, groups)


def _max_pool(x: Any, size: Any, stride: Any = (), padding: Any = (0, 0)) -> Any:
    window, steps = (1, 1, *size), (1, 1, *(stride or size))
    pads = ((0, 0), (0, 0), *((p, p) for p in padding))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, steps, pads)


def _batch_norm(x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool, *rest: Any) -> Any:
    if training:
        mean, var = jnp.mean(x, (0, 2, 3)), jnp.var(x, (0, 2, 3))
    scale = w * lax.rsqrt(var + rest[1])
    return x * scale[:, None, None] + (b - mean * scale)[:, None, None]


def _layer_norm(x: Any, shape: Any, w: Any, b: Any, eps: float = 1e-5, *_: Any) -> Any:
    axes = tuple(range(-len(shape), 0))
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + eps) * w + b


def _slice(x: Any, axis: int = 0, begin: int = 0, end: int | None = None, step: int = 1) -> Any:
    return x[(slice(None),) * (axis % x.ndim) + (slice(begin, end, step),)]


def _linear(x: Any, w: Any, b: Any = None) -> Any:
    y = x @ w.T
    return y if b is None else y + b


# What is kept whole: XLA then sees it as a JAX program would write it.
_KEPT_NAMES = ("linear", "conv2d", "layer_norm", "gelu", "softmax", "max_pool2d", "hardswish")
_KEPT = torch.export.default_decompositions()
for _operator in list(_KEPT):
    if str(_operator).split(".")[1] in (*_KEPT_NAMES, "hardsigmoid", "adaptive_avg_pool2d"):
        del _KEPT[_operator]

_TABLE: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "convolution": lambda x, w, b, s, p, d, _t, _o, g: _convolution(x, w, b, s, p, d, g),
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": lambda x, w, b, m, v, _m, e: (
        _batch_norm(x, w, b, m, v, False, 0, e),
    ),
    "_native_batch_norm_legit_functional": lambda x, w, b, m, v, t, k, e: (
        _batch_norm(x, w, b, m, v, t, k, e),
        *(None, None, m, v),
    ),
    "relu": jax.nn.relu,
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "softmax": lambda x, axis, *_: jax.nn.softmax(x, axis),
    "_softmax": lambda x, axis, _half: jax.nn.softmax(x, axis),
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": lambda *a: (_max_pool(*a),),
    "adaptive_avg_pool2d": lambda x, _one: jnp.mean(x, (2, 3), keepdims=True),
    "mean": lambda x, axes, keepdim=False: jnp.mean(x, tuple(axes), keepdims=keepdim),
    "matmul": jnp.matmul,
    "bmm": jnp.matmul,
    "mm": jnp.matmul,
    "addmm": lambda b, x, w: x @ w + b,
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "clamp": jnp.clip,
    "hardtanh": jnp.clip,
    "embedding": lambda w, index, *_: w[index],
    "view": jnp.reshape,
    "reshape": jnp.reshape,
    "_unsafe_view": jnp.reshape,
    "expand": lambda x, shape: jnp.broadcast_to(
        x, [n if n >= 0 else x.shape[i - len(shape)] for i, n in enumerate(shape)]
    ),
    "flatten": lambda x, begin, end=-1: jnp.reshape(x, (*x.shape[:begin], -1)),
    "transpose": jnp.swapaxes,
    "permute": jnp.transpose,
    "t": jnp.transpose,
    "cat": lambda parts, axis=0: jnp.concatenate(parts, axis),
    "stack": lambda parts, axis=0: jnp.stack(parts, axis),
    "chunk": lambda x, count, axis=0: jnp.split(x, count, axis),
    "split": lambda x, size, axis=0: jnp.split(x, x.shape[axis] // size, axis),
    "split_with_sizes": lambda x, sizes, axis=0: jnp.split(x, len(sizes), axis),
    "select": lambda x, axis, index: jnp.take(x, index, axis),
    "slice": _slice,
    "unsqueeze": jnp.expand_dims,
    "squeeze": lambda x, axes: jnp.squeeze(x, axes if isinstance(axes, int) else tuple(axes)),
    "clone": lambda x, **_: x,
    "alias": lambda x: x,
    "_to_copy": lambda x, dtype=None, **_: x.astype(_DTYPES[dtype]) if dtype else x,
}
