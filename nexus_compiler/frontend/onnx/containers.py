"""Sequences and optionals among the inputs and outputs of a model: each element is one tensor.

What such an input holds is settled when the model is compiled, as the length of an axis is that
`shapes=` fixes: `{"x": (3,)}` for a sequence of three elements, `(0,)` or `(1,)` for an optional
that is empty or not. The elements are inputs called "x.0", "x.1", ..., outputs likewise; an element
that is a container itself has "x.0" as its name in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
from tvm import relax

from nexus_compiler.frontend.onnx.sequence import NOTHING
from nexus_compiler.frontend.onnx.values import Host, Value
from nexus_runtime.errors import CaptureError, ShapeError
from nexus_runtime.tensors import BITS

if TYPE_CHECKING:
    from nexus_compiler.frontend.onnx.importer import Importer
    from nexus_compiler.frontend.onnx.inputs import Shapes

_KINDS = {"sequence_type": "sequence", "optional_type": "optional"}


def _kind(kind: onnx.TypeProto) -> str:
    """ "sequence", "optional", or "" for what is neither."""
    return _KINDS.get(kind.WhichOneof("value") or "", "")


def _element(kind: onnx.TypeProto) -> onnx.TypeProto:
    return getattr(kind, kind.WhichOneof("value") or "").elem_type


def is_container(value: onnx.ValueInfoProto) -> bool:
    """Whether an input or output is a sequence or an optional."""
    return bool(_kind(value.type))


def flat(
    values: Iterable[onnx.ValueInfoProto], shapes: Shapes
) -> tuple[list[onnx.ValueInfoProto], Shapes]:
    """The tensors that `values` consist of, and the `shapes` that are theirs.

    Raises:
        ShapeError: `shapes` does not say how many elements a container has.
    """
    left, found = dict(shapes), list[onnx.ValueInfoProto]()
    for value in values:
        found += _flat(value, left)
    names = [value.name for value in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CaptureError(f"two inputs would be called '{twice}'", hint="rename the sequence")
    return found, left


def _flat(value: onnx.ValueInfoProto, shapes: dict[str, Any]) -> list[onnx.ValueInfoProto]:
    if not (kind := _kind(value.type)):
        return [value]
    count = _count(value.name, kind, shapes.pop(value.name, None))
    found: list[onnx.ValueInfoProto] = []
    for place in range(count):
        inner = onnx.ValueInfoProto(name=f"{value.name}.{place}", type=_element(value.type))
        # Elements may differ, also where their type gives an axis one name.
        for dim in inner.type.tensor_type.shape.dim if not _kind(inner.type) else ():
            dim.ClearField("dim_param")
        found += _flat(inner, shapes)
    return found


def _count(name: str, kind: str, given: Sequence[Any] | None) -> int:
    count = given[0] if given is not None and len(given) == 1 else None
    if isinstance(count, int) and count >= 0 and (count <= 1 or kind == "sequence"):
        return count
    what = "(0,) for nothing, (1,) for something" if kind == "optional" else "(3,) for 3 elements"
    raise ShapeError(
        f"input '{name}' is {'an' if kind == 'optional' else 'a'} {kind}: what it holds must be "
        f"known when the model is compiled, not {'nothing' if given is None else tuple(given)}",
        hint=f'shapes={{"{name}": ...}} (--shape {name}=...): {what}; '
        f"elements are the inputs '{name}.0', '{name}.1', ...",
    )


def gathered(
    importer: Importer,
    value: onnx.ValueInfoProto,
    shapes: Shapes,
    tensors: Mapping[str, Value | None],
) -> Value:
    """What an input holds: of `tensors`, which are flat.

    Raises:
        CaptureError: a sequence has constants among its elements, or such as are carried as bits.
    """
    if not (kind := _kind(value.type)):
        tensor = tensors[value.name]
        if not isinstance(tensor, relax.Expr) or importer.dtype(tensor) in BITS:
            raise CaptureError(
                f"'{value.name}' is a constant, or of a type that is carried as bits",
                hint="such elements cannot be in sequences and optionals",
            )
        return tensor
    count = _count(value.name, kind, shapes.get(value.name))
    items = [
        gathered(
            importer,
            onnx.ValueInfoProto(name=f"{value.name}.{place}", type=_element(value.type)),
            shapes,
            tensors,
        )
        for place in range(count)
    ]
    if kind == "optional":
        return items[0] if items else NOTHING
    return relax.Tuple([item for item in items if isinstance(item, relax.Expr)])


def results(
    importer: Importer, value: onnx.ValueInfoProto, found: Value
) -> list[tuple[str, relax.Expr]]:
    """The tensors of an output, with their names."""
    kind = _kind(value.type)
    if kind == "optional":
        if isinstance(found, Host) and found.dtype == NOTHING.dtype:
            return []
        inner = onnx.ValueInfoProto(name=f"{value.name}.0", type=_element(value.type))
        return results(importer, inner, found)
    if kind == "sequence" and isinstance(found, relax.Expr):
        items = [relax.TupleGetItem(found, i) for i in range(len(found.ty.fields))]  # pyright: ignore
        return [(f"{value.name}.{i}", importer.emit(item)) for i, item in enumerate(items)]
    return [(value.name, importer.tensor(found))]


def split(kind: onnx.TypeProto, name: str, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `shapes` and the feeds for `value`: an array, a list, or None for an empty optional."""
    word = _kind(kind)
    if not word:
        return {name: value.shape}, {name: value}
    items = ([] if value is None else [value]) if word == "optional" else value
    shapes: dict[str, Any] = {name: (len(items),)}
    feeds: dict[str, Any] = {}
    for place, item in enumerate(items):
        more_shapes, more_feeds = split(_element(kind), f"{name}.{place}", item)
        shapes |= more_shapes
        feeds |= more_feeds
    return shapes, feeds


def join(kind: onnx.TypeProto, name: str, outputs: Mapping[str, Any]) -> Any:
    """The output called `name` of the flat `outputs`; the opposite of `split`."""
    word = _kind(kind)
    if not word:
        return outputs[name]
    items: list[Any] = []
    while any(
        key == (inner := f"{name}.{len(items)}") or key.startswith(f"{inner}.") for key in outputs
    ):
        items.append(join(_element(kind), inner, outputs))
    return items if word == "sequence" else (items[0] if items else None)
