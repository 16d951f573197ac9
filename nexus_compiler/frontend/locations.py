"""Where in the user's files a layer was written, for messages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def caller(packages: Sequence[Path]) -> str:
    """File and line that called into `packages`; "" where that is no file."""
    here = inspect.currentframe()
    frame = None if here is None else here.f_back
    while frame is not None and _within(frame.f_code.co_filename, packages):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith("<"):
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def innermost(trace: str, packages: Sequence[Path]) -> str:
    """The last line of a stack trace that is outside of `packages`; "" where there is none."""
    for name, line in reversed(_FRAME.findall(trace)):
        if not _within(name, packages):
            return f"{Path(name).name}:{line}"
    return ""


def _within(name: str, packages: Sequence[Path]) -> bool:
    return any(name.startswith(str(package)) for package in packages)
