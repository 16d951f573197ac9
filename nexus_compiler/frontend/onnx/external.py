"""Weights that an ONNX model keeps in files beside it: mapped into memory, never copied there.

A model can come from anywhere, and a file that it names ends up in what is compiled. So only
regular files in the model's own folder are read, after links have been followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx

from nexus_compiler.frontend.onnx.nested import graphs
from nexus_runtime.errors import CaptureError


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the elements of `tensor` are in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def settle(model: onnx.ModelProto, folder: Path) -> None:
    """Check all places that `model`, read from `folder`, names, and make them absolute.

    Weights of the main graph stay in their files; others are few and small, and are read here.

    Raises:
        CaptureError: a place is outside of the folder, no file, or too short.
    """
    for tensor in model.graph.initializer:
        if is_external(tensor):
            _settle(tensor, folder)
    for tensor in _others(model):
        if is_external(tensor):
            _settle(tensor, folder)
            tensor.raw_data = mapped(tensor).tobytes()
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT


def refuse(model: onnx.ModelProto) -> None:
    """Refuse a model in memory whose weights are in files: nobody knows in which folder.

    Raises:
        CaptureError: it is one.
    """
    for tensor in (*model.graph.initializer, *_others(model)):
        if is_external(tensor):
            raise CaptureError(
                f"the elements of tensor '{tensor.name}' are in another file",
                hint="give the model's path, or read them first: "
                "onnx.load_external_data_for_model(model, folder)",
            )


def mapped(tensor: onnx.TensorProto) -> np.ndarray:
    """The bytes of a tensor that `settle` has seen: an array of uint8 over the file, read-only."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(entries["offset"]), int(entries["length"])
    if not length:  # no system maps nothing
        return np.empty(0, np.uint8)
    try:
        view = np.memmap(entries["location"], np.uint8, "r", offset, (length,))
    except (OSError, ValueError) as error:
        raise CaptureError(f"'{entries['location']}' cannot be mapped: {error}") from error
    return np.asarray(view)


def _others(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor but the weights of the main graph."""
    yield from _inside(model.graph.node)
    for function in model.functions:
        yield from _inside(function.node)


def _inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in graphs(node):
            yield from graph.initializer
            yield from _inside(graph.node)


def _settle(tensor: onnx.TensorProto, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _path(tensor.name, entries.get("location", ""), folder)
    size = path.stat().st_size
    offset = _number(tensor.name, entries, "offset", 0)
    length = _number(tensor.name, entries, "length", max(size - offset, 0))
    if offset + length > size:
        raise CaptureError(
            f"tensor '{tensor.name}' is said to be at bytes {offset} to {offset + length} of "
            f"'{path.name}', which has {size}",
            hint="the file was cut short, or belongs to another model: copy or export it again",
        )
    del tensor.external_data[:]
    for key, value in (("location", path), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _path(name: str, location: str, folder: Path) -> Path:
    said = f"tensor '{name}' is said to be in the file '{location}'"
    hint = "keep the files that the export wrote side by side, as files and not as links elsewhere"
    try:
        path, root = (folder / location).resolve(), folder.resolve()
        inside = path.is_relative_to(root) and not Path(location).is_absolute()
        regular = inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a circle of links, a zero byte
        raise CaptureError(f"{said}, which cannot be read: {error}", hint=hint) from error
    if not inside:
        raise CaptureError(f"{said}, which is outside of the model's own folder", hint=hint)
    if not regular:
        raise CaptureError(f"{said}, and that other file cannot be read: it is none", hint=hint)
    return path


def _number(name: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise CaptureError(
            f"tensor '{name}' has the {key} '{text}' in its other file: no number of bytes",
            hint="export the model again",
        )
    return int(text)


def elements(tensor: onnx.TensorProto, dtype: np.dtype) -> np.ndarray:
    """The elements of a settled tensor of `dtype`, over the file.

    Raises:
        CaptureError: its sizes do not fit its bytes.
    """
    found = mapped(tensor)
    wanted = math.prod(tensor.dims) * dtype.itemsize
    if wanted != found.size or any(size < 0 for size in tensor.dims):
        raise CaptureError(
            f"tensor '{tensor.name}' is {dtype.name}{list(tensor.dims)}, {wanted} bytes, but "
            f"{found.size} are stored for it",
            hint="the file belongs to another model, or was cut short: export it again",
        )
    return found.view(dtype).reshape(tuple(tensor.dims))
