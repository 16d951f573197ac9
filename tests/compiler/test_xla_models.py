"""Whole functions on XLA: dynamic sizes, networks, a training step, control flow, calls."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax
from xla_support import (
    assert_equal,
    build,
    case,
    emit,
    floats,
    load,
    module_of,
    signature_of,
    tvm_runner,
    whole,
)

from nexus_runtime.errors import InputError, UnsupportedOperator
from nexus_runtime.executors.jax_export import open_module

op, nn = relax.op, relax.op.nn
MLP_WEIGHTS = [
    floats(*shape, seed=seed, low=-0.3, high=0.3)
    for seed, shape in enumerate([(16, 32), (32,), (32, 10), (10,)], start=1)
]
MLP_SHAPES = [("batch", 16), *(weight.shape for weight in MLP_WEIGHTS)]


def mlp(x, w1, b1, w2, b2):
    hidden = nn.relu(op.add(op.matmul(x, w1), b1))
    return nn.softmax(op.add(op.matmul(hidden, w2), b2), axis=-1)


def cnn(x, kernel, gamma, beta, mean, variance, dense):
    y = nn.batch_norm(nn.conv2d(x, kernel, padding=1), gamma, beta, mean, variance, axis=1)
    y = nn.max_pool2d(nn.relu(emit(relax.TupleGetItem(emit(y), 0))), (2, 2), (2, 2))
    y = op.reshape(emit(nn.adaptive_avg_pool2d(y, (1, 1))), (-1, 8))
    return nn.log_softmax(op.matmul(y, dense))


CNN_WEIGHTS = [
    floats(8, 3, 3, 3, seed=1),
    *(floats(8, seed=seed) for seed in (2, 3, 4)),
    floats(8, seed=5, low=0.5, high=2),
    floats(8, 10, seed=6),
]


def attention(x, gamma, beta, project, output):
    y = op.matmul(nn.layer_norm(x, gamma, beta, axes=[-1]), project)
    parts = emit(op.split(y, 3, axis=-1))
    batch, length = x.ty.shape[0], x.ty.shape[1]
    heads = [
        op.reshape(emit(relax.TupleGetItem(parts, i)), (batch, length, 4, 8)) for i in range(3)
    ]
    mixed = op.reshape(nn.attention(*heads, causal_mask="TopLeft"), (batch, length, 32))
    return op.add(x, op.matmul(mixed, output))


# Small, as TVM's causal attention gives NaN where all scores of a row are far below zero.
ATTENTION_WEIGHTS = [
    floats(32),
    floats(32, seed=1),
    floats(32, 96, seed=2) / 10,
    floats(32, 32, seed=3),
]
BATCHES = {
    "mlp": (
        case(mlp, floats(1, 16), *MLP_WEIGHTS, shapes=MLP_SHAPES),
        [floats(size, 16, seed=size) for size in (1, 3, 32)],
        1e-6,
    ),
    "cnn": (
        case(
            cnn,
            floats(1, 3, 12, 10),
            *CNN_WEIGHTS,
            shapes=[("batch", 3, "height", "width"), *(w.shape for w in CNN_WEIGHTS)],
        ),
        [floats(size, 3, 6 + size, 9, seed=size) for size in (1, 4)],
        1e-5,
    ),
    "attention": (
        case(
            attention,
            floats(1, 5, 32),
            *ATTENTION_WEIGHTS,
            shapes=[("batch", "length", 32), *(w.shape for w in ATTENTION_WEIGHTS)],
        ),
        [floats(size, 2 + size, 32, seed=size) for size in (1, 4)],
        1e-4,
    ),
}


@pytest.mark.parametrize("target", ["xla-cpu", "tpu-v5e"])
@pytest.mark.parametrize("name", BATCHES)
def test_one_module_serves_every_size(name: str, target: str) -> None:
    made, inputs, tolerance = BATCHES[name]
    module = module_of({"main": made})
    executor, reference = load(module, "main", target=target), tvm_runner(module)
    assert executor.platform == "cpu"
    for array in inputs:
        arguments = [array, *made.arrays[1:]]
        assert_equal(executor.run("main", arguments), reference("main", arguments), tolerance)


def test_training_step_of_an_mlp() -> None:
    def loss(x, w1, b1, w2, b2, labels):
        hidden = nn.relu(op.add(op.matmul(x, w1), b1))
        return nn.nll_loss(nn.log_softmax(op.add(op.matmul(hidden, w2), b2)), labels)

    arrays = [floats(6, 16), *MLP_WEIGHTS, whole(6, high=10, dtype="int64")]
    check_gradient(loss, arrays, weights=(1, 2, 3, 4), tolerance=1e-5)


def test_training_step_of_a_cnn() -> None:
    def loss(x, kernel, dense, labels):
        y = nn.max_pool2d(nn.relu(nn.conv2d(x, kernel, strides=(2, 2), padding=1)), (2, 2), (2, 2))
        y = nn.avg_pool2d(nn.silu(y), (2, 2), (1, 1))
        logits = op.matmul(op.reshape(y, (4, 8 * 2 * 2)), dense)
        return nn.nll_loss(nn.log_softmax(logits), labels)

    arrays = [
        floats(4, 3, 12, 12),
        floats(8, 3, 3, 3, seed=1),
        floats(32, 10, seed=2),
        whole(4, high=10, dtype="int64"),
    ]
    check_gradient(loss, arrays, weights=(1, 2), tolerance=1e-4)


def check_gradient(make, arrays, weights, tolerance) -> None:
    builder = relax.BlockBuilder()
    parameters = [
        relax.Var(f"x{i}", relax.TensorType(array.shape, array.dtype.name))
        for i, array in enumerate(arrays)
    ]
    with builder.function("main", parameters):
        with builder.dataflow():
            output = builder.emit_output(make(*parameters))
        builder.emit_func_output(output)
    wanted = [parameters[i] for i in weights]
    module = relax.transform.Gradient("main", require_grads=wanted)(builder.get())
    module = flat(module["main_adjoint"], len(weights))
    actual = load(module, "main").run("main", arrays)
    assert_equal(actual, tvm_runner(module)("main", arrays), tolerance)


def flat(function, count):
    """(loss, (gradients...)) as one flat tuple, which is what a captured graph returns."""
    builder = relax.BlockBuilder()
    parameters = [relax.Var(p.name, p.ty) for p in function.params]
    with builder.function("main", parameters):
        step = builder.add_func(function.without_attr("global_symbol"), "step")
        result = builder.emit(relax.Call(step, parameters))
        gradients = builder.emit(relax.TupleGetItem(result, 1))
        parts = [builder.emit(relax.TupleGetItem(gradients, i)) for i in range(count)]
        loss = builder.emit(relax.TupleGetItem(result, 0))
        builder.emit_func_output(relax.Tuple([loss, *parts]))
    return builder.get()


def test_a_call_of_another_function_is_exported_with_it() -> None:
    module = module_of({"inner": case(lambda x: op.multiply(x, x), floats(3))})
    builder = relax.BlockBuilder(module)
    x = relax.Var("x", relax.TensorType([3], "float32"))
    with builder.function("main", [x]):
        inner = builder.emit(relax.Call(module.get_global_var("inner"), [x]))
        twice = builder.emit(op.add(relax.TupleGetItem(inner, 0), x))
        builder.emit_func_output(relax.Tuple([twice]))
    (actual,) = load(builder.get(), "main").run("main", [floats(3)])
    np.testing.assert_allclose(actual, floats(3) ** 2 + floats(3), rtol=1e-6)


def test_a_branch_on_data_becomes_a_branch() -> None:
    x = relax.Var("x", relax.TensorType([3], "float32"))
    flag = relax.Var("flag", relax.TensorType([], "bool"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, flag]):
        branches = [
            relax.SeqExpr([relax.BindingBlock([relax.VarBinding(v, value)])], v)
            for v, value in (
                (relax.Var("a", x.ty), op.exp(x)),
                (relax.Var("b", x.ty), op.negative(x)),
            )
        ]
        chosen = builder.emit(relax.If(flag, *branches))
        builder.emit_func_output(relax.Tuple([chosen]))
    executor = load(builder.get(), "main")
    for flag_value, expected in ((True, np.exp(floats(3))), (False, -floats(3))):
        (actual,) = executor.run("main", [floats(3), np.array(flag_value)])
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def dynamic(make, array, shape):
    return case(make, array, shapes=[shape])


SIZED = {
    "halves": dynamic(
        lambda x: op.strided_slice(x, [0], [0], [x.ty.shape[0] // 2]), floats(1, 3), ("n", 3)
    ),
    "behind": dynamic(lambda x: op.strided_slice(x, [0], [3], [2**31]), floats(1, 3), ("n", 3)),
    "all_but_one": dynamic(
        lambda x: op.strided_slice(x, [0], [0], [x.ty.shape[0] - 1]), floats(1, 3), ("n", 3)
    ),
    "inner": dynamic(lambda x: op.strided_slice(x, [0], [-3], [-1]), floats(1, 3), ("n", 3)),
    "last": dynamic(lambda x: op.strided_slice(x, [0], [-1], [2**31]), floats(1, 3), ("n", 3)),
    "rows": dynamic(lambda x: op.arange(0, x.ty.shape[0], 1, "int64"), floats(1, 3), ("n", 3)),
    "mean": dynamic(op.mean, floats(1, 3), ("n", 3)),
    "tril": dynamic(lambda x: op.tril(x, 0), floats(1, 1), ("n", "n")),
    "flat": dynamic(op.flatten, floats(1, 3), ("n", 3)),
    "repeat": dynamic(lambda x: op.repeat(x, 2, 0), floats(1, 3), ("n", 3)),
    "concat": dynamic(lambda x: op.concat([x, x], 0), floats(1, 3), ("n", 3)),
    "shape": dynamic(lambda x: op.shape_to_tensor(op.shape_of(x)), floats(1, 3), ("n", 3)),
    "size": dynamic(op.size, floats(1, 3), ("n", 3)),
    "cross": case(
        nn.cross_entropy_with_logits, floats(1, 3), floats(1, 3), shapes=[("n", 3), ("n", 3)]
    ),
    "pad": dynamic(lambda x: op.nn.pad(x, (1, 2, 0, 1)), floats(1, 3), ("n", 3)),
    "cumsum": dynamic(lambda x: op.cumsum(x, 0, exclusive=True), floats(1, 3), ("n", 3)),
    "full": dynamic(lambda x: op.ones((x.ty.shape[0] * 2, 1), "int32"), floats(1, 3), ("n", 3)),
}


@pytest.fixture(scope="module")
def sized():
    module = module_of(SIZED)
    return load(module, *SIZED), tvm_runner(module)


@pytest.mark.parametrize("name", SIZED)
def test_dynamic_sizes_are_computed(name: str, sized) -> None:
    executor, reference = sized
    for size in (4, 7):
        shape = [size, size if name == "tril" else 3]
        arrays = [floats(*shape, seed=i) for i in range(len(SIZED[name].arrays))]
        assert_equal(executor.run(name, arrays), reference(name, arrays), 1e-5)


def test_gradients_of_pools_take_any_batch() -> None:
    made = case(
        lambda g, x: op.grad.max_pool2d_backward(g, x, pool_size=(2, 2), strides=(2, 2)),
        floats(1, 2, 2, 2),
        floats(1, 2, 4, 4),
        shapes=[("n", 2, 2, 2), ("n", 2, 4, 4)],
    )
    module = module_of({"main": made})
    arrays = [floats(3, 2, 2, 2), floats(3, 2, 4, 4, seed=1)]
    assert_equal(load(module, "main").run("main", arrays), tvm_runner(module)("main", arrays), 1e-6)


def test_sizes_that_do_not_fit_each_other_are_refused() -> None:
    made = case(op.add, floats(1, 3), floats(1, 3), shapes=[("n", 3), ("n", 3)])
    executor = load(module_of({"main": made}), "main")
    with pytest.raises(InputError, match="'main' does not take these arrays"):
        executor.run("main", [floats(2, 3), floats(4, 3)])
    with pytest.raises(InputError):
        executor.run("main", [floats(2, 3)])
    with pytest.raises(InputError, match="no function 'mian'"):
        executor.run("mian", [floats(2, 3)])


def test_a_size_that_depends_on_data_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match=r"'main'.*relax\.nonzero") as caught:
        build(module_of({"main": case(op.nonzero, floats(3))}), "main")
    assert "llvm" in caught.value.hint


def test_equal_functions_share_a_blob() -> None:
    one = case(op.exp, floats(2, 3))
    both = build(module_of({"first": one, "second": one}), "first", "second")
    alone = build(module_of({"first": one}), "first")
    assert len(both) < len(alone) + 200
    executor = open_module(both, signature_of("first", "second"), num_threads=2)
    for name in ("first", "second"):
        np.testing.assert_allclose(
            executor.run(name, [floats(2, 3)])[0], np.exp(floats(2, 3)), rtol=1e-6
        )
