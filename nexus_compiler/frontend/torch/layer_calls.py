"""How a layer is called while a model is traced: with tensors and plain values, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import free_symbols
from torch.utils import _pytree as pytree

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Bundle:
    """Tensors and plain values in whatever holds them.

    Attributes:
        tensors: the tensors, each once.
        leaves: all of them: places among `tensors`, or plain values in a tuple of one.
        spec: how they are put together.
    """

    tensors: list[torch.Tensor]
    leaves: tuple[int | tuple[Any], ...]
    spec: Any

    @classmethod
    def of(cls, value: Any) -> Bundle:
        """What `value` is made of."""
        leaves, spec = pytree.tree_flatten(value)
        tensors = list({id(leaf): leaf for leaf in leaves if is_tensor(leaf)}.values())
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        told = tuple(places[id(leaf)] if is_tensor(leaf) else (leaf,) for leaf in leaves)
        return cls(tensors, told, spec)

    def on(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The same with other tensors."""
        return pytree.tree_unflatten(self._filled(tensors), self.spec)

    def holds(self, value: Any, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether `value`, which was made by `on`, still holds what it held."""
        leaves, spec = pytree.tree_flatten(value)
        return spec == self.spec and all(a is b for a, b in zip(leaves, self._filled(tensors)))

    def is_plain(self) -> bool:
        """Whether there is nothing but tensors and plain values."""
        return all(isinstance(one, int) or isinstance(one[0], PLAIN) for one in self.leaves)

    def has_symbols(self) -> bool:
        """Whether a size in it is a symbol."""
        return any(free_symbols(tensor) for tensor in self.tensors)

    def _filled(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        return [one[0] if isinstance(one, tuple) else tensors[one] for one in self.leaves]


def arguments(args: Any, kwargs: Any) -> Bundle | None:
    """What a layer is called with; None where that is more than tensors and plain values."""
    found = Bundle.of((args, kwargs)) if _is_simple((args, kwargs)) else None
    return found if found is not None and found.tensors else None


def described(given: Bundle) -> str:
    """What of its arguments decides how a layer is traced."""
    return repr((given.leaves, str(given.spec), [_described(tensor) for tensor in given.tensors]))


def is_tensor(value: Any) -> bool:
    """Whether `value` is an ordinary tensor of the trace, whose elements nobody knows."""
    return type(value) is FakeTensor and value.constant is None


def _is_simple(value: Any) -> bool:
    if type(value) in {tuple, list}:
        return all(map(_is_simple, value))
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and all(map(_is_simple, value.values()))
    return is_tensor(value) or isinstance(value, PLAIN)


def _described(tensor: torch.Tensor) -> Any:
    sizes = [str(size) for size in (*tensor.shape, *tensor.stride())]
    return sizes, tensor.dtype, tensor.device, tensor.requires_grad


def share_memory(results: Sequence[torch.Tensor], held: Sequence[torch.Tensor]) -> bool:
    """Whether results are views of each other, or of what the layer holds."""
    places = [
        tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
        for tensor in (*results, *held)
    ]
    mine = places[: len(results)]
    return len(set(mine)) < len(mine) or not set(mine).isdisjoint(places[len(mine) :])
