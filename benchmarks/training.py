"""Training steps against PyTorch and JAX: loss, gradients and SGD with momentum."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common

GIVEN = common.arguments(__doc__)

import networks  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import nexus_runtime  # noqa: E402
from nexus_compiler import GraphBuilder  # noqa: E402
from nexus_runtime import Trainer  # noqa: E402

common.quiet()
torch.set_num_threads(GIVEN.threads)
Prepared = tuple[common.Call, Mapping[str, Callable[[], common.Call]]]
RATE, MOMENTUM = 0.01, 0.9
# So many steps before the losses are compared: they then depend on gradients and updates too.
STEPS = 2


def step(
    builder: GraphBuilder, make: Callable[[], torch.nn.Module], batch: int
) -> Callable[[], Prepared]:
    """`make` gives the network of `builder`, with its parameters in the same order."""

    def prepare() -> Prepared:
        torch.manual_seed(0)
        random = np.random.default_rng(0)
        shape = builder.sources[0].shape[1:]
        x = random.standard_normal((batch, *shape), np.float32)
        y = random.integers(0, 10, batch)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "t.nxa"
            # Like the peers, which compile for the shapes that they are given.
            builder.build_training(path, loss="cross_entropy", optimizer="sgd", batch_size=batch)
            module = nexus_runtime.load(path, num_threads=GIVEN.threads)
        # In the order of the layers, not of the file.
        order = [spec.name for spec in module.manifest.signature.parameters]
        weights = {name: module.parameters[name] for name in order}

        def network() -> torch.nn.Module:
            return _with(make().train(), weights)

        return _ahead(_nexus(module, x, y)), {
            "torch eager": lambda: _ahead(_torch(network(), x, y, compiled=False)),
            "torch.compile": lambda: _ahead(_torch(network(), x, y, compiled=True)),
            "jax": lambda: _ahead(_jax(network(), x, y)),
        }

    return prepare


def _ahead(call: common.Call) -> common.Call:
    for _ in range(STEPS):
        call()
    return call


def _with(module: torch.nn.Module, weights: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """`module` with the trained ones of `weights`, in their order; ours are [in, out]."""
    trained = [array for name, array in weights.items() if "running" not in name]
    theirs = list(module.named_parameters())
    if len(trained) != len(theirs):
        raise ValueError(f"{len(theirs)} parameters instead of {len(trained)}: {list(weights)}")
    with torch.no_grad():
        for (name, parameter), array in zip(theirs, trained):
            linear = array.ndim == 2
            given = np.ascontiguousarray(array.T if linear else array)
            if parameter.shape != given.shape:
                raise ValueError(f"{name} is {tuple(parameter.shape)}, ours {given.shape}")
            parameter.copy_(torch.from_numpy(given.copy()))
    return module


def _nexus(module: nexus_runtime.Module, x: np.ndarray, y: np.ndarray) -> common.Call:
    trainer = Trainer(module)

    def call() -> list[Any]:
        loss, _ = trainer.train(x, y, RATE, seed=1, row=0)
        return [np.float32(loss / len(x))]

    return call


def _torch(module: torch.nn.Module, x: np.ndarray, y: np.ndarray, *, compiled: bool) -> common.Call:
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM)
    run = torch.compile(module) if compiled else module
    given, wanted = torch.from_numpy(x), torch.from_numpy(y)

    def call() -> list[Any]:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(run(given), wanted)
        loss.backward()
        optimizer.step()
        return [loss.detach().numpy()]

    return call


def _jax(module: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> common.Call:
    import jax
    import jax.numpy as jnp
    import jax_port

    function, values = jax_port.port(module, (torch.from_numpy(x),))
    trained = {name for name, _ in module.named_parameters()}
    places = {place for place in values if jax_port.origin(function, place) in trained}
    fixed = {place: value for place, value in values.items() if place not in places}
    state = {place: value for place, value in values.items() if place in places}
    given, wanted = jnp.asarray(x), jnp.asarray(y)

    def loss(weights: dict[str, Any], x: Any, y: Any) -> Any:
        logits = jax.nn.log_softmax(function({**fixed, **weights}, x)[0])
        return -jnp.mean(jnp.take_along_axis(logits, y[:, None], 1))

    def advance(weights: Any, velocity: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(loss)(weights, x, y)
        velocity = {name: MOMENTUM * v + grads[name] for name, v in velocity.items()}
        return value, {name: w - RATE * velocity[name] for name, w in weights.items()}, velocity

    compiled = jax.jit(advance, donate_argnums=(0, 1))
    kept = [state, {name: jnp.zeros_like(value) for name, value in state.items()}]

    def call() -> list[Any]:
        value, kept[0], kept[1] = compiled(*kept, given, wanted)
        jax.block_until_ready(kept)
        return [value]

    return call


def mlp(*widths: int) -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, widths[0]))
    for width in widths[1:-1]:
        builder = builder.dense(width, activation="relu")
    return builder.dense(widths[-1], activation="softmax")


def lenet() -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, 1, 28, 28))
    builder = builder.conv2d(6, 5, padding=2, activation="relu").max_pool2d(2)
    builder = builder.conv2d(16, 5, activation="relu").max_pool2d(2).flatten()
    return (
        builder.dense(120, activation="relu")
        .dense(84, activation="relu")
        .dense(10, activation="softmax")
    )


def resnet18() -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, 3, 32, 32))
    builder = builder.conv2d(64, 3, padding=1, bias=False).batch_norm().activation("relu")
    before = 64
    for stage in range(4):
        for index in range(2):
            width, stride = 64 << stage, 2 if stage and not index else 1
            builder = _block(builder, width, stride, same=stride == 1 and before == width)
            before = width
    return builder.global_avg_pool().flatten().dense(10, activation="softmax")


def _block(builder: GraphBuilder, width: int, stride: int, *, same: bool) -> GraphBuilder:
    def body(b: GraphBuilder) -> GraphBuilder:
        b = b.conv2d(width, 3, stride=stride, padding=1, bias=False).batch_norm()
        return b.activation("relu").conv2d(width, 3, padding=1, bias=False).batch_norm()

    def skip(b: GraphBuilder) -> GraphBuilder:
        return b.conv2d(width, 1, stride=stride, bias=False).batch_norm()

    joined = builder.residual(body) if same else builder.branch(body, skip, merge="add")
    return joined.activation("relu")


def transformer() -> GraphBuilder:
    builder = GraphBuilder().input("x", (None, 64, 256))
    for _ in range(4):
        builder = builder.residual(lambda b: b.attention(4)).layer_norm()
        builder = builder.residual(lambda b: b.dense(1024, activation="gelu").dense(256))
        builder = builder.layer_norm()
    return builder.flatten().dense(10, activation="softmax")


_GOAL = 1.2


def workloads() -> list[common.Workload]:
    """All rows, in the order of the page."""
    found: list[common.Workload] = []
    for widths, batch in (
        ((784, 256, 10), 32),
        ((784, 256, 10), 128),
        ((784, 1024, 1024, 10), 128),
    ):
        name = f"mlp {'-'.join(map(str, widths))}, batch {batch}"
        make = step(mlp(*widths), lambda widths=widths: networks.mlp(*widths), batch)
        found.append(common.Workload(name, make, _GOAL))
    for batch in (32, 128):
        make = step(lenet(), networks.lenet, batch)
        found.append(common.Workload(f"lenet, batch {batch}", make, _GOAL))
    small = step(resnet18(), lambda: networks.resnet18(10, small=True), 32)
    found.append(common.Workload("resnet-18 of 32 x 32, batch 32", small, _GOAL))
    layers = step(transformer(), networks.transformer, 32)
    found.append(common.Workload("transformer of 4 layers, batch 32", layers, _GOAL))
    return found


if __name__ == "__main__":
    common.report("training step", common.measure(workloads(), GIVEN), GIVEN)
