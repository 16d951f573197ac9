"""ONNX Runtime as the independent reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nexus_runtime.errors import CaptureError, DeviceError, InputError


class OnnxRuntime:
    """One session on the CPU.

    Args:
        model: path of the ONNX file.
        num_threads: threads of one call; 0 for ONNX Runtime's own choice.

    Raises:
        DeviceError: onnxruntime is not installed.
        CaptureError: it refuses the model.
    """

    def __init__(self, model: Path, *, num_threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise DeviceError(
                "comparing needs ONNX Runtime", hint="pip install 'nexus-compiler[verify]'"
            ) from error
        if not model.is_file():
            raise CaptureError(f"cannot read {model}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime's classes of errors are private to its extension module.
            raise CaptureError(f"ONNX Runtime refuses {model}: {_first_line(error)}") from error
        self.inputs = [given.name for given in self._session.get_inputs()]
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name.

        Raises:
            InputError: ONNX Runtime refuses the inputs.
        """
        try:
            results: Sequence[Any] = self._session.run(self.outputs, dict(inputs))
        except Exception as error:
            raise InputError(f"ONNX Runtime refuses the inputs: {_first_line(error)}") from error
        return dict(zip(self.outputs, results))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
