"""Orders: the largest of every type, reversed sequences, and windows of nothing but infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_models import compare, floats, model, node, single, whole
from onnx_pipeline import Model
from torch.nn import functional

from nexus_compiler.frontend.onnx import capture
from nexus_runtime.errors import UnsupportedOperator


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", ["uint64", "uint32", "uint16", "int16", "float16"])
@pytest.mark.parametrize("late", [True, False])
def test_largest_of_every_type(dtype: str, largest: int, late: bool) -> None:
    x = whole(3, 40, high=60000, dtype=dtype)
    if dtype == "uint64":
        x[1, 3:9] += np.uint64(1 << 63)
    count = [np.array([4])]
    proto, feeds = single(
        "TopK", [x, *count * late], count * (not late), outputs=2, largest=largest
    )
    values, places = Model(proto).run(feeds)
    wanted = np.sort(x, 1)[:, ::-1][:, :4] if largest else np.sort(x, 1)[:, :4]
    np.testing.assert_array_equal(values, wanted)
    np.testing.assert_array_equal(np.take_along_axis(x, places, 1), wanted)


def test_unique_numbers_without_sign() -> None:
    x = np.array([3, 2**64 - 1, 3, 0, 2**63], "uint64")
    proto, feeds = single("Unique", [x])
    np.testing.assert_array_equal(Model(proto).run(feeds)[0], np.unique(x))


@pytest.mark.parametrize("time", [0, 1])
def test_reversed_sequences(time: int) -> None:
    proto = model(
        [node("ReverseSequence", "x n", time_axis=time, batch_axis=1 - time)],
        {"x": ("float32", ("a", "b", 3)), "n": ("int64", ("m",))},
    )
    x = floats(4, 5, 3)
    lengths = np.array([1, 4, 2, 3] if time else [4, 1, 3, 2, 4])
    compare(proto, {"x": x, "n": lengths})


def test_reversed_sequences_need_two_axes() -> None:
    proto = model(
        [node("ReverseSequence", "x n", time_axis=1, batch_axis=1)],
        {"x": ("float32", (4, 5)), "n": ("int64", (5,))},
    )
    with pytest.raises(UnsupportedOperator, match="time_axis is 1 and its batch_axis 1"):
        capture(proto)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"padding": 1}, {"pads": 1}),
        ({"stride": 2, "ceil_mode": True}, {"strides": 2, "ceil_mode": 1}),
        ({"dilation": 2, "stride": 1}, {"dilations": 2}),
    ],
)
def test_windows_of_infinities(rank: int, options: dict[str, Any], own: dict[str, Any]) -> None:
    x = floats(1, 2, *[8] * rank)
    x[0, 0], x[0, 1, 2] = -np.inf, np.inf
    attributes = {k: [v] * (2 * rank if k == "pads" else rank) for k, v in own.items()}
    attributes |= {"ceil_mode": own.get("ceil_mode", 0), "kernel_shape": [3] * rank}
    proto, feeds = single("MaxPool", [x], **attributes)
    pool = getattr(functional, f"max_pool{rank}d")
    wanted = pool(torch.from_numpy(x), 3, **{"stride": 1, **options}).numpy()
    np.testing.assert_array_equal(Model(proto).run(feeds)[0], wanted)


def scan_of_batches(lengths: str = "_", **attributes: Any) -> onnx.ModelProto:
    body = onnx.helper.make_graph(
        [node("Add", "s x", "t"), node("Mul", "t t", "y")],
        "body",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "sx"],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "ty"],
    )
    made = node("Scan", f"{lengths} s x", "t y", body=body, num_scan_inputs=1, **attributes)
    inputs = {"s": ("float32", ("n", 3)), "x": ("float32", ("n", 5, 3))}
    inputs |= {} if lengths == "_" else {lengths: ("int64", ("n",))}
    return model([made], inputs, ("t", "y"), opset=8)


@pytest.mark.parametrize("back", [0, 1])
def test_scan_of_batches(back: int) -> None:
    state, x = floats(4, 3), floats(4, 5, 3, seed=1)
    last, rows = Model(scan_of_batches(directions=[back])).run({"s": state, "x": x})
    sums = state[:, None] + np.cumsum(x[:, ::-1] if back else x, 1)
    np.testing.assert_allclose(last, sums[:, -1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows, sums**2, rtol=1e-5, atol=1e-5)


def test_scan_of_batches_with_lengths_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="its sequences have lengths of their own"):
        capture(scan_of_batches("lengths"))
