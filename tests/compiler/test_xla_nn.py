"""Convolutions, pools, normalisations, losses, attention and gradient operators."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from tvm import relax
from xla_support import Case, Suite, case, floats, whole

op, nn = relax.op, relax.op.nn
IMAGE, CHANNELS_LAST = floats(2, 4, 9, 8), floats(2, 9, 8, 4)
VECTOR = floats(4, seed=1)
LOGS = np.log(floats(5, 3, low=0.1, high=0.9))
CLASSES = whole(5, high=3, dtype="int64")


def conv(name: str, **options):
    return lambda x, w: getattr(nn, name)(x, w, **options)


def pool(name: str, *size: int, **options):
    return lambda x: getattr(nn, name)(x, size, **options)


def back(name: str, *size: int, **options):
    return lambda g, x: getattr(op.grad, name)(g, x, pool_size=size, **options)


def torch_transpose(dims: int, **options):
    function = getattr(torch.nn.functional, f"conv_transpose{dims}d")
    return lambda x, w: function(torch.from_numpy(x), torch.from_numpy(w), **options).numpy()


CONV: dict[str, Case] = {
    "conv1d": case(conv("conv1d", strides=2, padding=1), floats(2, 4, 9), floats(6, 4, 3)),
    "conv2d": case(conv("conv2d", padding=(1, 0, 2, 1)), IMAGE, floats(6, 4, 3, 3)),
    "conv2d_strides": case(conv("conv2d", strides=(2, 1)), IMAGE, floats(6, 4, 3, 3)),
    "conv2d_groups": case(conv("conv2d", groups=2), IMAGE, floats(6, 2, 3, 3)),
    "conv2d_depthwise": case(conv("conv2d", groups=4, padding=1), IMAGE, floats(8, 1, 3, 3)),
    "conv2d_dilation": case(conv("conv2d", dilation=(2, 3)), IMAGE, floats(6, 4, 3, 3)),
    "conv2d_nhwc": case(
        conv("conv2d", data_layout="NHWC", kernel_layout="HWIO"), CHANNELS_LAST, floats(3, 3, 4, 6)
    ),
    "conv3d": case(conv("conv3d", padding=1), floats(1, 2, 5, 4, 6), floats(3, 2, 3, 3, 3)),
    "conv1d_transpose": case(
        conv("conv1d_transpose", strides=2, output_padding=1), floats(2, 4, 5), floats(4, 3, 3)
    ),
    "conv2d_transpose": case(
        conv("conv2d_transpose", strides=(2, 3), padding=(1, 1), output_padding=(1, 2)),
        IMAGE,
        floats(4, 3, 3, 3),
    ),
    "conv2d_transpose_groups": case(
        conv("conv2d_transpose", groups=2, dilation=(2, 1)),
        IMAGE,
        floats(4, 3, 3, 3),
        expected=torch_transpose(2, groups=2, dilation=(2, 1)),
    ),
    "conv3d_transpose": case(
        conv("conv3d_transpose", strides=2),
        floats(1, 2, 3, 4, 2),
        floats(2, 3, 2, 3, 2),
        expected=torch_transpose(3, stride=2),
    ),
}
POOL: dict[str, Case] = {
    "max_pool1d": case(pool("max_pool1d", 3, strides=2), floats(2, 3, 9)),
    "max_pool2d": case(pool("max_pool2d", 3, 2, strides=(2, 1), padding=(1, 0, 1, 1)), IMAGE),
    "max_pool2d_ceil": case(pool("max_pool2d", 2, 2, strides=(2, 3), ceil_mode=True), IMAGE),
    "max_pool2d_dilation": case(pool("max_pool2d", 2, 2, dilation=(2, 3)), IMAGE),
    "max_pool2d_nhwc": case(pool("max_pool2d", 2, 2, layout="NHWC"), CHANNELS_LAST),
    "max_pool2d_int": case(pool("max_pool2d", 2, 2), whole(1, 2, 5, 5, low=-9, high=9)),
    "max_pool3d": case(pool("max_pool3d", 2, 2, 2), floats(1, 2, 4, 5, 6)),
    "avg_pool1d": case(pool("avg_pool1d", 3, strides=2, padding=1), floats(2, 3, 9)),
    "avg_pool2d": case(pool("avg_pool2d", 3, 3, strides=(2, 2), padding=(1, 1)), IMAGE),
    "avg_pool2d_counted": case(
        pool("avg_pool2d", 3, 3, strides=(2, 2), padding=(1, 1), count_include_pad=True), IMAGE
    ),
    "avg_pool2d_ceil": case(pool("avg_pool2d", 2, 3, strides=(2, 2), ceil_mode=True), IMAGE),
    "avg_pool3d": case(pool("avg_pool3d", 2, 2, 2, strides=(2, 1, 1)), floats(1, 2, 4, 5, 6)),
    "adaptive_avg_pool1d": case(lambda x: nn.adaptive_avg_pool1d(x, 4), floats(2, 3, 10)),
    "adaptive_avg_pool2d": case(lambda x: nn.adaptive_avg_pool2d(x, (3, 4)), IMAGE),
    "adaptive_avg_pool2d_one": case(lambda x: nn.adaptive_avg_pool2d(x, (1, 1)), IMAGE),
    "adaptive_avg_pool2d_same": case(nn.adaptive_avg_pool2d, IMAGE),
    "adaptive_avg_pool3d": case(
        lambda x: nn.adaptive_avg_pool3d(x, (2, 2, 3)), floats(1, 2, 4, 5, 6)
    ),
    "max_pool2d_backward": case(
        back("max_pool2d_backward", 2, 2, strides=(2, 2)), floats(2, 4, 4, 4), IMAGE
    ),
    "max_pool2d_backward_overlap": case(
        back("max_pool2d_backward", 3, 3, strides=(2, 2), padding=(1, 1, 1, 1)),
        floats(2, 4, 5, 4),
        IMAGE,
    ),
    "avg_pool2d_backward": case(
        back("avg_pool2d_backward", 3, 3, strides=(2, 2), padding=(1, 1, 1, 1)),
        floats(2, 4, 5, 4),
        IMAGE,
    ),
}


def batch_norm(training: bool):
    return lambda x, g, b, m, v: nn.batch_norm(x, g, b, m, v, axis=1, training=training)


STATISTICS = (VECTOR, floats(4, seed=2), floats(4, seed=3), floats(4, low=0.5, high=2))
NORM: dict[str, Case] = {
    "batch_norm": case(batch_norm(False), IMAGE, *STATISTICS),
    "batch_norm_training": case(batch_norm(True), IMAGE, *STATISTICS),
    "layer_norm": case(
        lambda x, g, b: nn.layer_norm(x, g, b, axes=[-1]), floats(2, 3, 4), VECTOR, VECTOR
    ),
    "layer_norm_axes": case(
        lambda x, g, b: nn.layer_norm(x, g, b, axes=[-2, -1]),
        floats(2, 3, 4),
        floats(3, 4),
        floats(3, 4, seed=1),
    ),
    "layer_norm_half": case(
        lambda x, g, b: nn.layer_norm(x, g, b, axes=[-1]),
        *(array.astype("float16") for array in (floats(2, 64), floats(64), floats(64, seed=1))),
        tol=4e-3,
    ),
    "group_norm": case(
        lambda x, g, b: nn.group_norm(x, g, b, num_groups=2, channel_axis=1, axes=[2, 3]),
        IMAGE,
        VECTOR,
        VECTOR,
    ),
    "instance_norm": case(
        lambda x, g, b: nn.instance_norm(x, g, b, channel_axis=1, axes=[2, 3]),
        IMAGE,
        VECTOR,
        VECTOR,
    ),
    "rms_norm": case(lambda x, w: nn.rms_norm(x, w, axes=[-1]), floats(2, 3, 4), VECTOR),
    "softmax": case(lambda x: nn.softmax(x, axis=1), IMAGE),
    "log_softmax": case(lambda x: nn.log_softmax(x, axis=-1), IMAGE),
    **{
        name: case(getattr(nn, name), floats(3, 4, low=-4, high=4))
        for name in ["relu", "silu", "gelu", "gelu_tanh", "selu", "leakyrelu", "softplus"]
    },
    "prelu": case(nn.prelu, IMAGE, VECTOR),
    "dropout": case(lambda x: nn.dropout(x, 0.5), VECTOR),
}


def nll(reduction: str, ignored: int = -100):
    return lambda p, t, *w: nn.nll_loss(p, t, *(w or (None,)), reduction, ignored)


def nll_back(reduction: str, ignored: int = -100):
    return lambda g, p, t, *w: op.grad.nll_loss_backward(
        g, p, t, *(w or (None,)), reduction=reduction, ignore_index=ignored
    )


ONE = np.float32(0.7).reshape(())
LOSS: dict[str, Case] = {
    **{f"nll_{how}": case(nll(how), LOGS, CLASSES) for how in ("mean", "sum", "none")},
    "nll_weights": case(nll("mean"), LOGS, CLASSES, floats(3, low=0.1)),
    "nll_ignored": case(nll("mean", 1), LOGS, CLASSES),
    "nll_image": case(nll("none"), floats(2, 3, 4), whole(2, 4, high=3, dtype="int64")),
    "nll_single": case(nll("mean"), LOGS[0], np.int64(2).reshape(())),
    "nll_back_mean": case(nll_back("mean"), ONE, LOGS, CLASSES),
    "nll_back_sum": case(nll_back("sum", 1), ONE, LOGS, CLASSES),
    "nll_back_none": case(nll_back("none"), floats(5), LOGS, CLASSES),
    "nll_back_weights": case(nll_back("mean"), ONE, LOGS, CLASSES, floats(3, low=0.1)),
    "cross_entropy": case(nn.cross_entropy_with_logits, LOGS, floats(5, 3)),
    "take_back": case(
        lambda g, x, i: op.grad.take_backward(g, x, i, axis=0),
        floats(4, 3),
        floats(6, 3),
        np.array([1, 5, 1, 0]),
    ),
}
HEADS = [floats(2, length, 3, 8, seed=length) for length in (4, 6, 6)]
ATTENTION: dict[str, Case] = {
    "attention": case(nn.attention, *HEADS),
    "attention_scale": case(lambda q, k, v: nn.attention(q, k, v, scale=0.3), *HEADS),
    "attention_bias": case(nn.attention, *HEADS, floats(2, 3, 4, 6)),
    "attention_causal": case(lambda q, k, v: nn.attention(q, k, v, causal_mask="TopLeft"), *HEADS),
    "attention_bottom": case(
        lambda q, k, v: nn.attention(q, k, v, causal_mask="BottomRight"), *HEADS
    ),
}
SUITES = {
    name: Suite(cases)
    for name, cases in {
        "conv": CONV,
        "pool": POOL,
        "norm": NORM,
        "loss": LOSS,
        "attention": ATTENTION,
    }.items()
}


@pytest.mark.parametrize(
    ("suite", "name"), [(suite, name) for suite in SUITES for name in SUITES[suite].cases]
)
def test_equals_tvm(suite: str, name: str) -> None:
    SUITES[suite].check(name)


def test_take_backward_takes_indices_of_any_rank() -> None:
    gradient, data, indices = floats(2, 3, 4), floats(6, 4), whole(2, 3, high=6, dtype="int64")
    made = case(functools.partial(op.grad.take_backward, axis=0), gradient, data, indices)
    (actual,) = Suite({"main": made}).run("main")
    expected = np.zeros_like(data)
    np.add.at(expected, indices, gradient)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_convolution_of_a_gradient_has_exotic_layouts() -> None:
    options = {"data_layout": "CNHW", "kernel_layout": "IOHW", "out_layout": "CNHW"}
    image, gradient = floats(2, 4, 6, 6), floats(2, 5, 4, 4)
    (actual,) = Suite({"main": case(conv("conv2d", **options), image, gradient)}).run("main")
    weight = torch.zeros(5, 4, 3, 3, requires_grad=True)
    torch.conv2d(torch.from_numpy(image), weight).backward(torch.from_numpy(gradient))
    np.testing.assert_allclose(actual, weight.grad.numpy(), atol=1e-4)
