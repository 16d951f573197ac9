"""Data movement, indexing, sorting, creation, quantisation and resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from tvm import relax
from xla_support import Case, Suite, case, floats, whole

op = relax.op
X, CUBE = floats(3, 4), floats(2, 3, 4)
ROWS = whole(5, high=3, dtype="int64")


def slice_of(axes, begin, end, strides=None):
    return lambda x: op.strided_slice(x, axes, begin, end, strides)


SHAPE: dict[str, Case] = {
    "reshape": case(lambda x: op.reshape(x, (4, -1)), X),
    "flatten": case(op.flatten, CUBE),
    "batch_flatten": case(op.nn.batch_flatten, CUBE),
    "squeeze": case(lambda x: op.squeeze(x, [1]), floats(3, 1, 4)),
    "squeeze_all": case(op.squeeze, floats(1, 3, 1)),
    "expand_dims": case(lambda x: op.expand_dims(x, [0, -1]), X),
    "permute_dims": case(lambda x: op.permute_dims(x, [1, 2, 0]), CUBE),
    "permute_reverse": case(op.permute_dims, CUBE),
    "broadcast_to": case(lambda x: op.broadcast_to(x, (2, 3, 4)), floats(3, 1)),
    "flip": case(lambda x: op.flip(x, axis=1), CUBE),
    "tile": case(lambda x: op.tile(x, (2, 1, 3)), X),
    "repeat": case(lambda x: op.repeat(x, 2, axis=1), X),
    "repeat_flat": case(lambda x: op.repeat(x, 3), X),
    "pad": case(lambda x: op.nn.pad(x, (0, 1, 2, 3), pad_value=1.5), X),
    "pad_reflect": case(lambda x: op.nn.pad(x, (0, 0, 1, 2), pad_mode="reflect"), X),
    "pad_replicate": case(lambda x: op.nn.pad(x, (1, 0, 1, 2), pad_mode="replicate"), X),
    "pad_circular": case(lambda x: op.nn.pad(x, (1, 0, 1, 2), pad_mode="circular"), X),
    # TVM 0.27 legalizes it to a function that it does not have.
    "pixel_shuffle": case(
        lambda x: op.nn.pixel_shuffle(x, 2),
        floats(2, 8, 3, 2),
        expected=lambda x: torch.pixel_shuffle(torch.from_numpy(x), 2).numpy(),
    ),
    "shape_to_tensor": case(lambda x: op.shape_to_tensor(op.shape_of(x)), X),
    "size": case(op.size, X),
    "concat": case(lambda x, y: op.concat([x, y], axis=1), X, floats(3, 2)),
    "stack": case(lambda x, y: op.stack([x, y], axis=-1), X, floats(3, 4, seed=1)),
    "split": case(lambda x: op.split(x, 2, axis=1), X),
    "split_uneven": case(lambda x: op.split(x, 3, axis=1), X),
    "split_at": case(lambda x: op.split(x, [1, 3], axis=-1), X),
    "meshgrid": case(lambda x, y: op.meshgrid([x, y], indexing="ij"), floats(3), floats(4)),
}
INDEX: dict[str, Case] = {
    "slice": case(slice_of([0, 1], [1, 0], [3, 2]), X),
    "slice_negative": case(slice_of([1], [-3], [-1]), X),
    "slice_step": case(slice_of([1], [0], [4], [2]), X),
    "slice_back": case(slice_of([1], [3], [-5], [-1]), X),
    "slice_back_step": case(slice_of([1], [2], [0], [-2]), X),
    "slice_far": case(slice_of([1], [1], [100]), X),
    "take": case(lambda x, i: op.take(x, i, axis=0), X, ROWS),
    "take_matrix": case(lambda x, i: op.take(x, i, axis=1), X, whole(2, 2, high=4)),
    "take_last": case(
        lambda x, i: op.take(x, i, axis=0),
        X,
        np.array([-1, 1], "int64"),
        expected=lambda x, i: x[i],
    ),
    "take_clip": case(
        lambda x, i: op.take(x, i, axis=0, mode="clip"), X, np.array([-2, 1, 9], "int64")
    ),
    "take_wrap": case(
        lambda x, i: op.take(x, i, axis=0, mode="wrap"), X, np.array([-2, 1, 4], "int64")
    ),
    "take_nan": case(
        lambda x, i: op.take(x, i, axis=0, mode="nan"), X, np.array([2, 1, 9], "int64")
    ),
    "gather_elements": case(
        lambda x, i: op.gather_elements(x, i, axis=1), X, whole(3, 2, high=4, dtype="int64")
    ),
    "gather_elements_shorter": case(
        lambda x, i: op.gather_elements(x, i, axis=0), X, whole(2, 3, high=3, dtype="int64")
    ),
    "gather_nd": case(op.gather_nd, CUBE, np.array([[0, 1], [1, 2]], "int64")),
    "gather_nd_batch": case(
        lambda x, i: op.gather_nd(x, i, batch_dims=1), CUBE, np.array([[1], [2]], "int64")
    ),
    "index_tensor": case(lambda x, i, j: op.index_tensor(x, [i, j]), X, ROWS, ROWS),
    "bucketize": case(op.bucketize, X, np.array([-1, 0, 0.5], "float32")),
    "reverse_sequence": case(
        lambda x, n: op.reverse_sequence(x, n, seq_axis=1, batch_axis=0),
        CUBE,
        np.array([2, 3], "int64"),
    ),
    **{
        f"scatter_elements_{how}": case(
            lambda x, i, u, how=how: op.scatter_elements(x, i, u, axis=0, reduction=how),
            X,
            np.array([[0, 2, 1, 1]], "int64"),
            floats(1, 4, seed=1),
        )
        for how in ("update", "add", "mul", "max", "min")
    },
    "scatter_elements_negative": case(
        lambda x, i, u: op.scatter_elements(x, i, u, axis=1),
        X,
        np.array([[-1], [0], [-2]], "int64"),
        floats(3, 1, seed=1),
    ),
    **{
        f"scatter_nd_{how}": case(
            lambda x, i, u, how=how: op.scatter_nd(x, i, u, reduction=how),
            CUBE,
            np.array([[0, 1], [1, 2]], "int64"),
            floats(2, 4, seed=1),
        )
        for how in ("update", "add")
    },
    "index_put": case(
        lambda x, i, j, u: op.index_put(x, [i, j], u),
        X,
        np.array([2, 0], "int64"),
        np.array([1, 3], "int64"),
        floats(2),
    ),
    "index_put_add": case(
        lambda x, i, j, u: op.index_put(x, [i, j], u, accumulate=True),
        X,
        np.array([2, 2], "int64"),
        np.array([1, 1], "int64"),
        floats(2),
    ),
    "slice_scatter": case(
        lambda x, s: op.slice_scatter(x, s, 0, 4, 2, axis=1), X, floats(3, 2, seed=1)
    ),
}
SORT: dict[str, Case] = {
    "sort": case(lambda x: op.sort(x, axis=1), X),
    "sort_descending": case(lambda x: op.sort(x, axis=0, descending=True), X),
    "argsort_ties": case(lambda x: op.argsort(x, axis=-1), whole(2, 9, high=3)),
    "argsort_descending_ties": case(
        lambda x: op.argsort(x, axis=-1, descending=True, dtype="int64"), whole(2, 9, high=3)
    ),
    "topk": case(lambda x: op.topk(x, 2, axis=1), X),
    "topk_smallest": case(lambda x: op.topk(x, 2, axis=0, largest=False, dtype="int64"), X),
    "topk_values": case(lambda x: op.topk(x, 3, ret_type="values"), X),
    "topk_indices": case(lambda x: op.topk(x, 3, ret_type="indices"), X),
}


def with_input(make):
    """Creation takes no tensor; a function without a parameter would be folded."""
    return lambda x: relax.Tuple([x, make()])


CREATE: dict[str, Case] = {
    "zeros": case(with_input(lambda: op.zeros((2, 3), "int32")), X),
    "ones": case(with_input(lambda: op.ones((2, 3), "float32")), X),
    "full": case(with_input(lambda: op.full((2,), relax.const(3, "int64"), "float32")), X),
    "arange": case(with_input(lambda: op.arange(1, 9, 3, "int64")), X),
    "eye": case(with_input(lambda: op.eye(3, 4, 1, "float32")), X),
    "hamming": case(
        with_input(lambda: op.hamming_window(8, False, 0.54, 0.46, "float32")),
        X,
        expected=lambda x: (x, np.hamming(8).astype("float32")),
    ),
    "zeros_like": case(op.zeros_like, X),
    "ones_like": case(lambda x: op.ones_like(x, "int32"), X),
    "full_like": case(lambda x: op.full_like(x, relax.const(2.5, "float32")), X),
    "eye_like": case(lambda x: op.eye_like(x, -1), X),
    "tril": case(lambda x: op.tril(x, 1), CUBE),
    "triu": case(lambda x: op.triu(x, -1), CUBE),
    "one_hot": case(
        lambda i: op.one_hot(
            i,
            relax.prim_value(tvm.tirx.FloatImm("float32", 2)),
            relax.prim_value(tvm.tirx.FloatImm("float32", -1)),
            4,
            axis=1,
        ),
        whole(3, 2, high=4, dtype="int64"),
    ),
}
SCALES = np.array([0.02, 0.05, 0.1, 0.03], "float32")
ZEROS = np.array([3, -2, 0, 7], "int8")
QUANTIZE: dict[str, Case] = {
    "quantize": case(lambda x, s, z: op.quantize(x, s, z, 1, "int8"), X, SCALES, ZEROS),
    "dequantize": case(
        lambda x, s, z: op.dequantize(x, s, z, 1),
        whole(3, 4, low=-128, high=128, dtype="int8"),
        SCALES,
        ZEROS,
    ),
}


def resize(method: str, mode: str, rounding: str = "", **options):
    return lambda x: op.image.resize2d(
        x,
        (7, 5),
        method=method,
        coordinate_transformation_mode=mode,
        rounding_method=rounding,
        **options,
    )


IMAGE: dict[str, Case] = {
    **{
        f"linear_{mode}": case(resize("linear", mode), floats(1, 2, 4, 6))
        for mode in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    },
    **{
        f"nearest_{rounding}": case(
            resize("nearest_neighbor", "half_pixel", rounding), floats(1, 2, 4, 6)
        )
        for rounding in ("round", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    },
    "nearest_default": case(resize("nearest_neighbor", "asymmetric"), floats(1, 2, 4, 6)),
    "cubic": case(resize("cubic", "half_pixel", cubic_alpha=-0.75), floats(1, 2, 4, 6)),
    "linear_nhwc": case(resize("linear", "half_pixel", layout="NHWC"), floats(1, 4, 6, 2)),
}
SUITES = {
    name: Suite(cases)
    for name, cases in {
        "shape": SHAPE,
        "index": INDEX,
        "sort": SORT,
        "create": CREATE,
        "quantize": QUANTIZE,
        "image": IMAGE,
    }.items()
}


@pytest.mark.parametrize(
    ("suite", "name"), [(suite, name) for suite in SUITES for name in SUITES[suite].cases]
)
def test_equals_tvm(suite: str, name: str) -> None:
    SUITES[suite].check(name)
