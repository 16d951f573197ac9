"""Gradients of traced functions against PyTorch, through one region and through many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nexus_compiler as nexus
from nexus_runtime.errors import UserError

torch = pytest.importorskip("torch")
xp = nexus.array_api

# Written once, in names that the array API and PyTorch share; each takes a (3, 4) array.
CASES: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda n, x: n.sum(x * x / (x + 3.0) - x**3),
    "exponentials": lambda n, x: n.sum(n.exp(x) + n.log(x) + n.sqrt(x) + n.log1p(x) + n.expm1(x)),
    "angles": lambda n, x: n.sum(n.sin(x) * n.cos(x) + n.tanh(x) + n.atan(x) + n.asinh(x)),
    "hyperbolic": lambda n, x: n.sum(n.sinh(x) + n.cosh(x) + n.atanh(x / 4.0)),
    "broadcast": lambda n, x: n.sum(x[:, :1] * x[:1, :]),
    "product": lambda n, x: n.sum((x @ x.mT) ** 2),
    "mean and max": lambda n, x: n.mean(x) + n.sum(n.max(x, axis=1) if n is xp else n.amax(x, 1)),
    "slices": lambda n, x: n.sum(x[1:, ::2] * x[:-1, 1::2]),
    "reshaped": lambda n, x: n.sum(n.reshape(x, (2, 6)) * n.reshape(x, (6, 2)).mT),
    "joined": lambda n, x: n.sum(n.concat([x, x * 2.0], **{"axis" if n is xp else "dim": 0}) ** 2),
    "chosen": lambda n, x: n.sum(n.where(x > 1.0, x * x, -x)),
    "taken": lambda n, x: n.sum(x[n.asarray([0, 2, 2]), :] ** 2),
}


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    function = CASES[name]
    x = np.random.default_rng(0).random((3, 4)) + 0.5
    tensor = torch.tensor(x, requires_grad=True)
    function(torch, tensor).backward()
    value, gradient = nexus.value_and_grad(lambda a: function(xp, a))(xp.asarray(x))
    np.testing.assert_allclose(float(value), float(function(torch, tensor.detach())), rtol=1e-9)
    np.testing.assert_allclose(np.asarray(gradient), tensor.grad, rtol=1e-7, atol=1e-9)


def test_a_jitted_training_step_is_one_region() -> None:
    def loss(weights: Any, x: Any, y: Any) -> Any:
        hidden = xp.tanh(x @ weights["in"] + weights["bias"])
        return xp.mean((hidden @ weights["out"] - y) ** 2)

    @nexus.jit
    def step(weights: Any, x: Any, y: Any) -> Any:
        value, slopes = nexus.value_and_grad(loss)(weights, x, y)
        return value, {name: weights[name] - 0.1 * slopes[name] for name in weights}

    draw = np.random.default_rng(1)
    weights = {"in": draw.random((3, 5)), "bias": draw.random(5), "out": draw.random((5, 1))}
    x, y = draw.random((8, 3)), draw.random((8, 1))
    tensors = {name: torch.tensor(one, requires_grad=True) for name, one in weights.items()}
    hidden = torch.tanh(torch.tensor(x) @ tensors["in"] + tensors["bias"])
    expected = torch.mean((hidden @ tensors["out"] - torch.tensor(y)) ** 2)
    expected.backward()
    value, updated = step(weights, x, y)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-12)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(updated[name], weights[name] - 0.1 * tensor.grad.numpy())
    for _ in range(20):
        value, updated = step(updated, x, y)
    assert value < 0.5 * float(expected.detach())
    assert (len(step.report().compiles), step.report().replays) == (1, 20)


def test_through_a_loop_on_data() -> None:
    def shrink(n: Any, x: Any) -> Any:
        while n.sum(x * x) > 1.0:
            x = n.sin(x) * 0.9
        return n.sum(x**3)

    x = np.asarray([1.0, 2.0, 3.0])
    tensor = torch.tensor(x, requires_grad=True)
    shrink(torch, tensor).backward()
    gradient = nexus.grad(lambda a: shrink(xp, a))
    np.testing.assert_allclose(np.asarray(gradient(xp.asarray(x))), tensor.grad, rtol=1e-10)


def test_through_branches_inside_of_jit() -> None:
    def loss(x: Any, y: Any) -> Any:
        z = x * y
        if xp.sum(z) > 0.0:
            z = z * z
        return xp.sum(z * y)

    both = nexus.jit(nexus.value_and_grad(loss, argnums=(0, 1)))
    for sign in (1.0, -1.0):
        x, y = np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0]) * sign
        a, b = (torch.tensor(one, requires_grad=True) for one in (x, y))
        z = a * b
        expected = torch.sum((z * z if sign > 0 else z) * b)
        expected.backward()
        value, slopes = both(x, y)
        np.testing.assert_allclose(value, expected.detach())
        np.testing.assert_allclose(slopes[0], a.grad)
        np.testing.assert_allclose(slopes[1], b.grad)


def test_second_derivatives() -> None:
    slope = nexus.grad(lambda x: xp.sum(x**4))
    curvature = nexus.grad(lambda x: xp.sum(slope(x)))
    np.testing.assert_allclose(np.asarray(curvature(xp.asarray([1.0, 2.0]))), [12.0, 48.0])


def test_what_does_not_matter_has_the_gradient_zero() -> None:
    x, y = xp.asarray([1.0, 2.0]), xp.asarray([3.0])
    found = nexus.grad(lambda x, y: xp.sum(x), argnums=(0, 1))(x, y)
    assert [one.tolist() for one in found] == [[1.0, 1.0], [0.0]]


def test_only_float_scalars_have_gradients() -> None:
    with pytest.raises(UserError, match="only float scalars"):
        nexus.grad(lambda x: x * 2.0)(xp.asarray([1.0, 2.0]))
    with pytest.raises(TypeError, match="by float arrays"):
        nexus.grad(xp.sum)(xp.asarray([1, 2]))
