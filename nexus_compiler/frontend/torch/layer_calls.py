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
class Call:
    """The arguments of a call.

    Attributes:
        tensors: those that are tensors, each once.
        leaves: all of them: places among `tensors`, or plain values in a tuple of one.
        spec: how they are put together.
        told: what decides how a layer is traced on them.
        symbolic: whether sizes of theirs are symbols.
    """

    tensors: list[torch.Tensor]
    leaves: tuple[int | tuple[Any], ...]
    spec: Any
    told: str
    symbolic: bool

    @classmethod
    def of(cls, args: Any, kwargs: Any) -> Call | None:
        """The description of a call; None where it has other things than tensors and values."""
        if not _is_simple((args, kwargs)):
            return None
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = list({id(leaf): leaf for leaf in leaves if is_tensor(leaf)}.values())
        if not tensors:
            return None
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        told = tuple(places[id(leaf)] if is_tensor(leaf) else (leaf,) for leaf in leaves)
        text = repr((told, str(spec), [_described(tensor) for tensor in tensors]))
        return cls(tensors, told, spec, text, any(map(has_symbols, tensors)))

    def on(self, tensors: Sequence[torch.Tensor]) -> Any:
        """`args` and `kwargs` with other tensors."""
        leaves = [one[0] if isinstance(one, tuple) else tensors[one] for one in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)

    def is_of(self, args: Any, kwargs: Any, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether lists and dicts in the arguments still hold what they held."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        told = [one[0] if isinstance(one, tuple) else tensors[one] for one in self.leaves]
        return spec == self.spec and all(a is b for a, b in zip(leaves, told))


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


def has_symbols(tensor: torch.Tensor) -> bool:
    """Whether a size of `tensor` is a symbol."""
    return bool(free_symbols(tensor))


def share_memory(results: Sequence[torch.Tensor], held: Sequence[torch.Tensor]) -> bool:
    """Whether results are views of each other, or of what the layer holds."""
    places = [
        tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
        for tensor in (*results, *held)
    ]
    mine = places[: len(results)]
    return len(set(mine)) < len(mine) or not set(mine).isdisjoint(places[len(mine) :])
