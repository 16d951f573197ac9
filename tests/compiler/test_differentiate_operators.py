"""The rules of `passes/gradients/` against PyTorch, operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_differentiate import gradients, weights_of
from tvm import relax

from nexus_compiler.passes.gradients import table
from nexus_runtime.errors import UnsupportedOperator

F, op = torch.nn.functional, relax.op

Case = tuple[list[tuple[int, ...]], Callable, Callable]


def one(build: Callable, reference: Callable, shape: tuple[int, ...] = (4, 5)) -> Case:
    """An operator on one tensor."""
    return [shape], lambda b, x: build(x), reference


def indices(shape: tuple[int, ...], below: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, below, shape)


PICK = indices((2, 3), 5)
PLACES = indices((4, 3), 5)
T = torch.tensor

CASES: dict[str, Case] = {
    "acos": one(lambda x: op.acos(op.tanh(x)), lambda x: x.tanh().acos()),
    "acosh": one(lambda x: op.acosh(op.exp(op.exp(x))), lambda x: x.exp().exp().acosh()),
    "asin": one(lambda x: op.asin(op.tanh(x)), lambda x: x.tanh().asin()),
    "asinh": one(op.asinh, torch.asinh),
    "atan": one(op.atan, torch.atan),
    "atanh": one(lambda x: op.atanh(op.sin(x)), lambda x: x.sin().atanh()),
    "ceil": one(lambda x: op.multiply(x, op.ceil(x)), lambda x: x * x.ceil()),
    "clip": one(lambda x: op.clip(x, -0.5, 0.7), lambda x: x.clamp(-0.5, 0.7)),
    "cosh": one(op.cosh, torch.cosh),
    "erf": one(op.erf, torch.erf),
    "log_add_exp": (
        [(4, 5), (5,)],
        lambda b, x, y: op.log_add_exp(x, y),
        torch.logaddexp,
    ),
    "round": one(lambda x: op.multiply(x, op.round(x)), lambda x: x * x.detach().round()),
    "rsqrt": one(lambda x: op.rsqrt(op.exp(x)), lambda x: x.exp().rsqrt()),
    "sinh": one(op.sinh, torch.sinh),
    "square": one(op.square, torch.square),
    "tan": one(op.tan, torch.tan),
    "gelu": one(op.nn.gelu, F.gelu),
    "gelu tanh": one(op.nn.gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    "leaky relu": one(lambda x: op.nn.leakyrelu(x, 0.2), lambda x: F.leaky_relu(x, 0.2)),
    "prelu": (
        [(2, 3, 4), (3,)],
        lambda b, x, s: op.nn.prelu(x, s, axis=1),
        F.prelu,
    ),
    "selu": one(op.nn.selu, F.selu),
    "softplus": one(
        lambda x: op.nn.softplus(x, beta=2.0, threshold=1.0), lambda x: F.softplus(x, 2.0, 1.0)
    ),
    "max": one(lambda x: op.max(x, axis=[1]), lambda x: x.amax(1)),
    "max of equals": one(lambda x: op.max(op.floor(x)), lambda x: x.floor().amax()),
    "min keeps": one(
        lambda x: op.min(x, axis=[0, 2], keepdims=True),
        lambda x: x.amin((0, 2), keepdim=True),
        (3, 4, 5),
    ),
    "mean of all": one(op.mean, torch.mean),
    "mean over negative axes": one(
        lambda x: op.mean(x, axis=[-1, -3]), lambda x: x.mean((0, 2)), (3, 4, 5)
    ),
    "prod": one(lambda x: op.prod(x, axis=[1]), lambda x: x.prod(1)),
    "std": one(lambda x: op.std(x, axis=[1]), lambda x: x.std(1, correction=0)),
    "sum over negative axes": one(
        lambda x: op.sum(x, axis=[-1, -3]), lambda x: x.sum((0, 2)), (3, 4, 5)
    ),
    "variance": one(
        lambda x: op.variance(x, axis=[-1], keepdims=True),
        lambda x: x.var(1, correction=0, keepdim=True),
    ),
    "many rows": (
        [(2, 4, 3), (3, 5)],
        lambda b, x, w: op.matmul(x, w),
        lambda x, w: x @ w,
    ),
    "take": (
        [(5, 4)],
        lambda b, x: op.take(x, relax.const(PICK), axis=0),
        lambda x: x[T(PICK)],
    ),
    "take along an inner axis": (
        [(2, 5, 3)],
        lambda b, x: op.take(x, relax.const(PICK), axis=1),
        lambda x: x[:, T(PICK)],
    ),
    "gather elements": (
        [(4, 5)],
        lambda b, x: op.gather_elements(x, relax.const(PLACES), axis=1),
        lambda x: x.gather(1, T(PLACES)),
    ),
    "flatten": one(op.flatten, lambda x: x.flatten(), (2, 3, 4)),
    "flip": one(lambda x: op.flip(x, 1), lambda x: x.flip(1)),
    "pad": one(
        lambda x: op.nn.pad(x, (0, 1, 2, 0), "constant", 3.0),
        lambda x: F.pad(x, (2, 0, 0, 1), value=3.0),
    ),
    "repeat": one(
        lambda x: op.repeat(x, 3, axis=1), lambda x: x.repeat_interleave(3, 1), (2, 4, 3)
    ),
    "squeeze": one(lambda x: op.squeeze(x, [1]), lambda x: x.squeeze(1), (3, 1, 4)),
    "stack": (
        [(2, 3), (2, 3)],
        lambda b, x, y: op.stack([x, y, x], axis=1),
        lambda x, y: torch.stack([x, y, x], 1),
    ),
    "slice": one(lambda x: op.strided_slice(x, [0, 1], [1, -4], [3, 9]), lambda x: x[1:3, -4:]),
    "slice with strides": one(
        lambda x: op.strided_slice(x, [1, 2], [1, 0], [9, 5], [3, 2]),
        lambda x: x[:, 1:9:3, 0:5:2],
        (2, 9, 6),
    ),
    "tile": one(lambda x: op.tile(x, (2, 1, 3)), lambda x: x.tile((2, 1, 3)), (2, 3)),
    "tril": one(op.tril, torch.tril),
    "layer norm": (
        [(2, 3, 4, 5), (4, 5), (4, 5)],
        lambda b, x, s, o: op.nn.layer_norm(x, s, o, axes=[-2, -1]),
        lambda x, s, o: F.layer_norm(x, (4, 5), s, o),
    ),
    "group norm": (
        [(2, 6, 4, 3), (6,), (6,)],
        lambda b, x, s, o: op.nn.group_norm(x, s, o, 3, channel_axis=1, axes=[2, 3]),
        lambda x, s, o: F.group_norm(x, 3, s, o),
    ),
    "instance norm": (
        [(2, 3, 4, 5), (3,), (3,)],
        lambda b, x, s, o: op.nn.instance_norm(x, s, o, channel_axis=1, axes=[2, 3]),
        lambda x, s, o: F.instance_norm(x, weight=s, bias=o),
    ),
    "rms norm": (
        [(2, 3, 5), (5,)],
        lambda b, x, s: op.nn.rms_norm(x, s, axes=[-1]),
        lambda x, s: F.rms_norm(x, (5,), s, eps=1e-5),
    ),
    "conv of one axis": (
        [(2, 4, 9), (6, 2, 3)],
        lambda b, x, w: op.nn.conv1d(x, w, strides=2, padding=1, groups=2),
        lambda x, w: F.conv1d(x, w, stride=2, padding=1, groups=2),
    ),
    "dilated conv": (
        [(2, 4, 11, 10), (6, 4, 3, 2)],
        lambda b, x, w: op.nn.conv2d(x, w, strides=(2, 1), padding=(1, 2), dilation=(2, 3)),
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(1, 2), dilation=(2, 3)),
    ),
    "dilated conv in groups": (
        [(3, 4, 8, 8), (4, 2, 3, 3)],
        lambda b, x, w: op.nn.conv2d(x, w, strides=3, dilation=2, groups=2),
        lambda x, w: F.conv2d(x, w, stride=3, dilation=2, groups=2),
    ),
    "depthwise conv": (
        [(2, 4, 7, 7), (4, 1, 3, 3)],
        lambda b, x, w: op.nn.conv2d(x, w, strides=2, padding=1, groups=4),
        lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=4),
    ),
    "transposed conv": (
        [(2, 3, 4, 5), (3, 4, 3, 2)],
        lambda b, x, w: op.nn.conv2d_transpose(
            x, w, strides=(2, 3), padding=(1, 0, 1, 0), output_padding=(1, 2)
        ),
        lambda x, w: F.conv_transpose2d(x, w, None, (2, 3), (1, 0), (1, 2)),
    ),
    "transposed conv of one axis": (
        [(2, 3, 5), (3, 4, 3)],
        lambda b, x, w: op.nn.conv1d_transpose(x, w, strides=2, padding=1, output_padding=1),
        lambda x, w: F.conv_transpose1d(x, w, None, 2, 1, 1),
    ),
    "avg pool": one(
        lambda x: op.nn.avg_pool2d(x, (3, 2), (2, 2), (1, 0, 1, 0)),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 2), (1, 0), count_include_pad=False),
        (2, 3, 7, 6),
    ),
    "avg pool of one axis": one(
        lambda x: op.nn.avg_pool1d(x, 3, 2, 1, count_include_pad=True),
        lambda x: F.avg_pool1d(x, 3, 2, 1),
        (2, 3, 8),
    ),
    "max pool of one axis": one(
        lambda x: op.nn.max_pool1d(x, 3, 2, 1), lambda x: F.max_pool1d(x, 3, 2, 1), (2, 3, 8)
    ),
    "adaptive avg pool": one(
        lambda x: op.nn.adaptive_avg_pool2d(x, (2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
        (2, 3, 4, 6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_torch(name: str, tmp_path: Path) -> None:
    shapes, build, reference = CASES[name]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    found = gradients(shapes, build, tmp_path)(*arrays)
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = reference(*tensors)
    loss = (value * torch.tensor(weights_of(tuple(value.shape)))).sum()
    loss.backward()
    np.testing.assert_allclose(found["loss"], loss.item(), rtol=2e-5, atol=2e-5)
    for index, tensor in enumerate(tensors):
        np.testing.assert_allclose(found[f"g{index}"], tensor.grad, rtol=2e-4, atol=2e-5)


def test_every_rule_is_of_an_operator() -> None:
    from tvm.ir import Op

    for name in table._RULES:
        assert Op.get(name) is not None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b, x: op.nn.pad(x, (1, 1, 1, 1), "reflect"), "padding by 'reflect'"),
        (lambda b, x: op.cumprod(x, axis=1), "relax.cumprod has no gradient"),
    ],
)
def test_what_has_no_gradient_is_refused(build: Callable, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperator, match=message):
        gradients([(4, 5)], build, tmp_path)
