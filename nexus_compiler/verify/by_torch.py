"""A PyTorch module itself, run eagerly, as the reference of what was captured of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from nexus_compiler.frontend.torch.values import as_array, as_tensor
from nexus_runtime.signature import FunctionSpec


@dataclass(eq=False)
class ByTorch:
    """See `Expected`; `args` and `kwargs` are the example inputs that the module was captured with.

    Every call has a copy of the module: what it changes is an output of the captured graph.
    """

    model: torch.nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    name: str = "pytorch"
    digest: str = ""

    def __post_init__(self) -> None:
        given = tuple(self.args), dict(self.kwargs)
        self._leaves, self._form = pytree.tree_flatten(given)

    def fits(self, function: FunctionSpec) -> bool:
        """Whether `function` takes the tensors of the example and nothing else, as seeds are."""
        return sum(isinstance(leaf, torch.Tensor) for leaf in self._leaves) == len(function.inputs)

    def outputs(
        self, function: FunctionSpec, inputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        """As `Expected.outputs`."""
        arrays = iter([np.array(inputs[one.name]) for one in function.inputs])
        leaves = [
            as_tensor(next(arrays)) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in self._leaves
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self._form)
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            returned = pytree.tree_leaves(model(*args, **kwargs))
        changed = dict(model.state_dict(keep_vars=True))
        names = [one.name for one in function.outputs if one.name not in function.updates]
        values = [_array(one) for one in returned if isinstance(one, torch.Tensor | int)]
        found = dict(zip(names, values, strict=True))
        return found | {name: _array(changed[t]) for name, t in function.updates.items()}


def _array(value: Any) -> np.ndarray:
    return as_array(value) if isinstance(value, torch.Tensor) else np.array(value, np.int64)
