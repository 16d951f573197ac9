"""Reads an ONNX model, and says clearly what is wrong with what is none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from nexus_compiler.frontend.graph import Source
from nexus_runtime.errors import CaptureError


def load(model: str | Path | onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, Source]:
    """The model and where it came from.

    Raises:
        CaptureError: the file is missing, is no ONNX, or ONNX's own checker refuses it.
    """
    if isinstance(model, onnx.ModelProto):
        data = model.SerializeToString(deterministic=True)
        return model, Source("onnx", name or model.graph.name, hashlib.sha256(data).hexdigest())
    path = Path(model)
    data = _read(path)
    return _parse(data, path), Source("onnx", name or path.name, hashlib.sha256(data).hexdigest())


def check(model: onnx.ModelProto, name: str) -> None:
    """Let ONNX's own checker look at the model.

    Raises:
        CaptureError: it refuses it.
    """
    try:
        onnx.checker.check_model(_filed(model))
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(
            f"'{name}' is not a valid ONNX model: {reason}",
            hint="export it again; `onnx.checker.check_model` shows the same complaint",
        ) from error


_MISFILED = {"SimplifiedLayerNormalization"}
"""ONNX Runtime writes these under ONNX's own domain, where the checker knows none of the name."""


def _filed(model: onnx.ModelProto) -> onnx.ModelProto:
    if not any(node.op_type in _MISFILED and not node.domain for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type in _MISFILED:
            node.domain = "com.microsoft"
    if all(opset.domain != "com.microsoft" for opset in copy.opset_import):
        copy.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return copy


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
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise CaptureError(
            f"the weights of '{path}' are in another file that cannot be read: {error}",
            hint="keep the files that the export wrote side by side",
        ) from error
    return model


def _no_onnx(path: Path) -> CaptureError:
    return CaptureError(
        f"'{path}' is not an ONNX model, or its end is missing",
        hint="give a file written by an ONNX exporter; compare its size with the original's",
    )
