"""Names for the inputs, outputs and dynamic dimensions of exported programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from nexus_compiler.frontend.torch import sizes
from nexus_compiler.frontend.torch.sizes import Dims


def returned(program: Any) -> list[Any]:
    """What the graph returns, as its nodes."""
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    return list(output.args[0])


def input_names(program: Any) -> dict[str, str]:
    """Names of the user's inputs by placeholder: those of the arguments of `forward`."""
    found: dict[str, str] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT and hasattr(spec.arg, "name"):
            found[spec.arg.name] = spec.arg.name
    return found


def output_names(program: Any) -> Iterator[str]:
    """Names of the user's outputs that are tensors: keys of dicts, `output` for a single one."""
    spec = program.call_spec.out_spec
    leaves = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(leaves)[0]]
    kinds = [
        isinstance(node, torch.fx.Node)
        for described, node in zip(program.graph_signature.output_specs, returned(program))
        if described.kind == OutputKind.USER_OUTPUT
    ]
    kept = [path for path, is_tensor in zip(paths, kinds) if is_tensor]
    names = [_path_name(path) for path in kept]
    if len(names) == 1 and not kept[0]:
        return iter(["output"])
    return iter(names)


def _path_name(path: Any) -> str:
    words = re.findall(r"\w+", pytree.keystr(path))
    name = "_".join(words)
    return f"output_{name}" if not name or name[0].isdigit() else name


def name_dimensions(program: Any, dynamic_shapes: Any, dims: Dims) -> None:
    """Call each symbol as the user called the `Dim` (or string) that it stands for."""
    if dynamic_shapes is None:
        return
    wanted = [
        leaf
        for leaf in pytree.tree_leaves(dynamic_shapes, is_leaf=_is_shape)
        if leaf is None or _is_shape(leaf)
    ]
    fakes = [
        node.meta.get("val")
        for node, spec in zip(
            (n for n in program.graph.nodes if n.op == "placeholder"),
            program.graph_signature.input_specs,
        )
        if spec.kind == InputKind.USER_INPUT
    ]
    fakes = [fake for fake in fakes if isinstance(fake, torch.Tensor)]
    if len(wanted) != len(fakes):
        return  # the user left out whole arguments: PyTorch's own names stay
    for shape, fake in zip(wanted, fakes):
        items = shape.items() if isinstance(shape, dict) else enumerate(shape or ())
        for axis, dim in items:
            symbol = sizes.plain(fake.shape[axis])
            name = getattr(dim, "__name__", dim)
            if isinstance(symbol, sympy.Symbol) and isinstance(name, str) and name.isidentifier():
                dims.name(symbol, name)


def _is_shape(value: Any) -> bool:
    """Whether `value` is what `dynamic_shapes` says of one tensor."""
    if value is None:
        return True
    if isinstance(value, dict):
        return all(isinstance(key, int) for key in value)
    if not isinstance(value, list | tuple):
        return False
    kinds = int | str | None
    return bool(value) and all(
        isinstance(item, kinds) or "_Dim" in type(item).__name__ or "Dim" in type(item).__name__
        for item in value
    )
