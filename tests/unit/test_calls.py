from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from nexus_runtime import calls, tensors
from nexus_runtime.calls import CallPlan
from nexus_runtime.errors import InputError
from nexus_runtime.signature import FunctionSpec, TensorSpec

SPEC = FunctionSpec(
    "main",
    inputs=(TensorSpec("x", "float32", ("batch", 4)), TensorSpec("y", "bfloat16", ("batch",))),
    outputs=(TensorSpec("z", "float32", ("batch",)),),
    guards=("batch % 2 == 0",),
)
BFLOAT16 = tensors.dtype_of("bfloat16")


def arrays(batch: int = 2, width: int = 4, rows: int | None = None) -> list[np.ndarray]:
    return [
        np.zeros((batch, width), np.float32),
        np.zeros(batch if rows is None else rows, BFLOAT16),
    ]


BAD = [
    (arrays(3), "needs batch % 2 == 0"),
    (arrays(rows=4), "but must be 2 (dimension 'batch')"),
    (arrays(width=5), "but must be 4"),
    ([arrays()[0].astype(np.float64), arrays()[1]], "input 'x' is float64"),
    ([arrays()[0], arrays()[1].view(np.int16)], "input 'y' is int16"),
    ([arrays()[0][0], arrays()[1]], "has 1 dimensions [4]"),
    ([arrays()[0]], "input 'y' is missing"),
    ([*arrays(), arrays()[1]], "takes 2 inputs, not 3"),
    ([object(), arrays()[1]], "input 'x'"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_what_was_accepted_before_excuses_nothing(values: list[Any], message: str) -> None:
    plan = CallPlan(SPEC)
    for good in (arrays(2), arrays(4), arrays(2)):
        assert plan.in_order(good)[0] is good[0]
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            plan.in_order(values)
        assert message in caught.value.message


def test_a_dimension_does_not_wander_to_another_input() -> None:
    plan = CallPlan(msgspec.structs.replace(SPEC, guards=()))
    plan.in_order(arrays(2))
    plan.in_order(arrays(3))
    with pytest.raises(InputError, match="must be 2"):
        plan.in_order([arrays(2)[0], arrays(3)[1]])


def test_names_and_positions_come_to_the_same() -> None:
    plan, (x, y) = CallPlan(SPEC), arrays()
    for _ in range(2):
        for found in (
            plan.in_order([x, y]),
            plan.by_name({"y": y, "x": x}),
            plan.mixed([x], {"y": y}),
            plan.mixed([], {"y": y, "x": x}),
            plan.mixed([x, y], {}),
        ):
            assert found[0] is x and found[1] is y


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (1, ("x",), "input 'x' is given twice"),
        (1, ("z",), "'main' has no input 'z'"),
        (2, ("z",), "'main' has no input 'z'"),
        (0, ("x",), "input 'y' is missing"),
    ],
)
def test_wrong_names_are_told(args: int, kwargs: tuple[str, ...], message: str) -> None:
    plan, given = CallPlan(SPEC), arrays()
    plan.in_order(given)
    with pytest.raises(InputError) as caught:
        plan.mixed(given[:args], dict.fromkeys(kwargs, given[0]))
    assert message in caught.value.message


def test_what_is_no_numpy_array_is_turned_into_one() -> None:
    plan, (x, y) = CallPlan(SPEC), arrays()
    plan.in_order([x, y])
    spec = msgspec.structs.replace(SPEC, inputs=(TensorSpec("x", "float64", (2,)),), guards=())
    (found,) = CallPlan(spec).in_order([[1.0, 2.0]])
    assert found.dtype == np.float64 and found.tolist() == [1, 2]
    assert plan.by_name({"x": x[::1], "y": y})[1] is y


def test_other_byte_orders_do_not_pass_for_ours() -> None:
    plan, (x, y) = CallPlan(SPEC), arrays()
    plan.in_order([x, y])
    foreign = (x + 1).astype(x.dtype.newbyteorder())
    (found, _) = plan.in_order([foreign, y])
    assert found.dtype.isnative and (found == 1).all()


def test_shapes_that_were_forgotten_pass_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_REMEMBERED", 3)
    plan = CallPlan(SPEC)
    for batch in [*range(0, 20, 2), *range(0, 20, 2)]:
        (found, _) = plan.in_order(arrays(batch))
        assert found.shape == (batch, 4)
        with pytest.raises(InputError, match="needs batch % 2 == 0"):
            plan.in_order(arrays(batch + 1))
