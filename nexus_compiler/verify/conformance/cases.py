"""The test cases that come with ONNX: a model, its inputs, and what it must return."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx

ATOL = 1e-5
"""ONNX's own 1e-7 is below what float32 holds near 1; nothing looser than this is allowed."""

_EXPANDED = re.compile(r"_expanded(_ver\d+|_function.*)?$")


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: what ONNX calls it.
        operator: what it tests, with its domain if that is not ONNX's own.
        model: the model.
        inputs: its inputs by name: arrays, lists of them (sequences) or None (empty optionals).
        outputs: what it must return, in order.
        rtol: how far a number may be off, relative to what it should be.
        atol: how far it may be off at least.
        drawn: its numbers are random, so that only types and shapes can be compared.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    rtol: float
    atol: float
    drawn: bool = False


@cache
def load() -> tuple[Case, ...]:
    """All cases, by name. They are made in memory, which takes a few seconds, and are always equal.

    An `_expanded` case holds the definition of an operator by others, and counts as that operator.
    """
    from onnx.backend.test.loader import load_model_tests

    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests: list[Any] = sorted(load_model_tests(kind="node"), key=lambda test: test.name)
    operators = {test.name: _operator(test.model) for test in tests}
    return tuple(_case(test, operators) for test in tests)


def select(pattern: str) -> list[Case]:
    """The cases whose name or operator holds `pattern`, a regular expression."""
    wanted = re.compile(pattern)
    return [c for c in load() if wanted.search(c.name) or wanted.search(c.operator)]


def _case(test: Any, operators: Mapping[str, str]) -> Case:
    given, expected = test.data_sets[0]
    names = [value.name for value in test.model.graph.input]
    inputs = {name: _array(value) for name, value in zip(names, given)}
    return Case(
        name=test.name,
        operator=operators.get(_EXPANDED.sub("", test.name), operators[test.name]),
        model=test.model,
        inputs=inputs,
        outputs=[_array(value) for value in expected],
        rtol=test.rtol,
        atol=max(test.atol, ATOL),
        drawn=any(_is_drawn(node, inputs) for node in test.model.graph.node),
    )


_RANDOM = {
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"),
    "RandomUniformLike",
}


def _is_drawn(node: onnx.NodeProto, inputs: Mapping[str, Any]) -> bool:
    """Whether results of `node` are random: of a Dropout, inputs decide."""
    if node.op_type != "Dropout" or len(node.input) < 3:
        return node.op_type in _RANDOM
    _, ratio, training = (inputs.get(name) for name in node.input)
    return bool(training) and (ratio is None or bool(ratio))


def _operator(model: onnx.ModelProto) -> str:
    """The operator of the only node, or of the last."""
    node = model.graph.node[-1]
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, list):
        return [_array(item) for item in value]
    return None if value is None else np.asarray(value)
