"""Calls whose inputs and outputs lie where they lay before: what can be settled is settled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nexus_runtime import guards, tensors
from nexus_runtime.errors import InputError
from nexus_runtime.signature import FunctionSpec


@dataclass(frozen=True)
class Binding:
    """One function and the arrays that it reads and writes; of `Module.bind`.

    Attributes:
        inputs: by name; what is written to them is what the next run computes from.
        outputs: by name; each run writes over them. One that takes an input's memory is that input.
        run: computes the outputs. One thread at a time; bind once more for another.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    run: Callable[[], object]


def outputs_for(
    spec: FunctionSpec,
    inputs: Sequence[np.ndarray],
    sizes: Mapping[str, int],
    given: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """The arrays that the outputs of `spec` are written to: `given` ones, and new ones.

    Args:
        spec: the function.
        inputs: in its order.
        sizes: of its open dimensions.
        given: outputs by name.

    Raises:
        InputError: an output is unknown, cannot be written to where it lies, is of another dtype or
            shape, or has a shape that only a run can tell.
    """
    if unknown := sorted(set(given) - {output.name for output in spec.outputs}):
        raise InputError(f"'{spec.name}' has no output '{unknown[0]}'")
    found: list[np.ndarray] = []
    for output, place in zip(spec.outputs, spec.donated):
        try:
            dims = [d if isinstance(d, int) else guards.value(d, sizes) for d in output.shape]
        except (KeyError, ValueError) as error:
            raise InputError(
                f"how large output '{output.name}' is only a run tells",
                hint="use `run`, which makes new arrays",
            ) from error
        shape, dtype = tuple(dims), tensors.dtype_of(output.dtype)
        if place >= 0:
            array = inputs[place]
        else:
            array = given.get(output.name)
            array = tensors.empty_aligned(shape, dtype) if array is None else array
        if array.shape != shape or array.dtype != dtype or not array.flags.carray:
            raise InputError(
                f"output '{output.name}' cannot be written to the array that is given: it must be "
                f"{dtype}{list(shape)}, contiguous and writable"
            )
        found.append(array)
    return found


def in_python(
    call: Callable[[], Sequence[np.ndarray]], outputs: Sequence[np.ndarray]
) -> Callable[[], None]:
    """What makes the results of `call` those of `outputs`, for executors that bind nothing."""

    def run() -> None:
        for own, result in zip(outputs, call()):
            if result is not own:
                own[...] = result

    return run
