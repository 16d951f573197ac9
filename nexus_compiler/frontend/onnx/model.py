"""Reads an ONNX model, and says clearly what is wrong with what is none."""

from __future__ import annotations

import concurrent.futures
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from nexus_compiler.frontend.graph import Source
from nexus_compiler.frontend.onnx import external
from nexus_compiler.frontend.onnx.nested import graphs
from nexus_runtime.errors import CaptureError


def load(model: str | Path | onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, Source]:
    """The model and where it came from.

    Raises:
        CaptureError: the file is missing, is no ONNX, or ONNX's own checker refuses it.
    """
    if isinstance(model, onnx.ModelProto):
        external.refuse(model)
        _check_plain(model)
        data = model.SerializeToString(deterministic=True)
        return model, Source("onnx", name or model.graph.name, hashlib.sha256(data).hexdigest())
    path = Path(model)
    data = _read(path)
    with concurrent.futures.ThreadPoolExecutor(1) as hashing:
        digest = hashing.submit(lambda: hashlib.sha256(data).hexdigest())
        parsed = _parse(data, path)
    return parsed, Source("onnx", name or path.name, digest.result())


def check(model: onnx.ModelProto, name: str) -> None:
    """Let ONNX's own checker look at the model.

    Raises:
        CaptureError: it refuses it.
    """
    try:
        onnx.checker.check_model(_checkable(model))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(
            f"'{name}' is not a valid ONNX model: {reason}",
            hint="export it again; `onnx.checker.check_model` shows the same complaint",
        ) from error


_MISFILED = {"SimplifiedLayerNormalization"}
"""ONNX Runtime writes these under ONNX's own domain, where the checker knows none of the name."""


_LARGE = 4096
"""Elements from which on a weight is kept from the checker, which gets a copy of every byte."""


def _checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` as the checker takes it: large weights, and those in other files, are inputs there.

    What is wrong with the bytes of these is found when they are read.
    """
    copy = onnx.ModelProto()
    _copy(model, copy, without="graph")
    _copy(model.graph, copy.graph, without="initializer")
    _file(copy)
    known = {value.name for value in copy.graph.input}
    for tensor in model.graph.initializer:
        if not external.is_external(tensor) and math.prod(tensor.dims) < _LARGE:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in known:
            kind = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            copy.graph.input.append(kind)
    return copy


def _copy(message: Any, into: Any, *, without: str) -> None:
    """Copy all fields of a message but one."""
    for field, value in message.ListFields():
        if field.name == without:
            continue
        if isinstance(value, str | bytes | int | float):
            setattr(into, field.name, value)
        else:
            getattr(into, field.name).MergeFrom(value)


def _file(model: onnx.ModelProto) -> None:
    if not (strays := [n for n in model.graph.node if n.op_type in _MISFILED and not n.domain]):
        return
    for node in strays:
        node.domain = "com.microsoft"
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CaptureError(f"there is no file '{path}'", hint="check the path") from error
    except OSError as error:
        raise CaptureError(f"'{path}' cannot be read: {error.strerror}") from error
    if not data:
        raise CaptureError(f"'{path}' is empty", hint="copy or export the model again")
    return data


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise _no_onnx(path) from error
    if not model.ir_version or not model.graph.output:
        raise _no_onnx(path)
    _check_plain(model)
    external.settle(model, path.parent)
    return model


def _check_plain(model: onnx.ModelProto) -> None:
    """Check that names are text, protobuf hands over as bytes what is none, and versions small.

    Raises:
        CaptureError: one is not.
    """
    for opset in model.opset_import:
        if not 0 < opset.version < 2**31:
            raise CaptureError(
                f"the model is written for opset {opset.version} of '{opset.domain or 'ai.onnx'}'",
                hint="opsets are numbered from 1: export the model again",
            )
    if not all(isinstance(name, str) for name in _texts(model)):
        raise CaptureError(
            "the model holds a name that is no text (UTF-8)",
            hint="the file is damaged: copy it or export it again",
        )


def _texts(model: onnx.ModelProto) -> Iterator[Any]:
    for opset in model.opset_import:
        yield opset.domain
    yield from _texts_of(model.graph)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from function.attribute
        for opset in function.opset_import:
            yield opset.domain
        yield from _texts_of(function)


def _texts_of(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[Any]:
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
        for inner in graphs(node):
            yield from _texts_of(inner)
    if isinstance(graph, onnx.FunctionProto):
        return
    yield graph.name
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _no_onnx(path: Path) -> CaptureError:
    return CaptureError(
        f"'{path}' is not an ONNX model, or its end is missing",
        hint="give a file written by an ONNX exporter; compare its size with the original's",
    )
