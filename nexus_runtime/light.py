"""Imports of what we need without what it would bring along."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from typing import Any


@contextlib.contextmanager
def without_torch() -> Generator[None]:
    """Import TVM in here: it imports torch wherever that is installed (two seconds, 190 MB).

    tvm_ffi does so for a symbol conflict on Windows, TVM for a converter that nobody here uses;
    both expect that it fails. Torch can be imported afterwards as ever.
    """
    if "torch" in sys.modules or "tvm" in sys.modules or sys.platform == "win32":
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None  # makes the import fail
    try:
        yield
    finally:
        if sys.modules.get("torch") is None:
            sys.modules.pop("torch", None)
