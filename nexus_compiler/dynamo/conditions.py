"""The guards of Dynamo as text: what a compiled frame is checked for before it is used again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import CodeType
from typing import Any

from torch._C._dynamo.eval_frame import (
    _debug_get_cache_entry_list,  # pyright: ignore[reportPrivateUsage]
)
from torch._dynamo import convert_frame

_LINE = re.compile(r"\+- (?P<kind>\w+): (?P<text>.*?)(?:  #.*)?$")
# Of each object that a function touches Dynamo also asks whether it is still the same.
_PLUMBING = {
    "DEFAULT_DEVICE", "GLOBAL_STATE", "GuardManager", "ID_MATCH", "NO_HASATTR",
    "NO_TENSOR_ALIASING", "TORCH_FUNCTION_MODE_STACK", "TYPE_MATCH",
}  # fmt: skip

Place = tuple[str, str, int]
"""The name, the file and the first line of a function."""


def listed() -> dict[Place, list[tuple[str, ...]]]:
    """For each function that Dynamo compiled, the guards of its results, oldest first.

    These are conditions on sizes (`2 <= L['x'].size()[0]`), dtypes, values of arguments, ...;
    those that only ask whether an object is still the same are left out.
    """
    found: dict[Place, list[tuple[str, ...]]] = {}
    for reference in convert_frame.input_codes.seen:
        code: Any = reference()
        if isinstance(code, CodeType):
            # Dynamo looks at the newest first, and so keeps them.
            entries: Any = _debug_get_cache_entry_list(code)
            texts = [tuple(_texts(str(entry.guard_manager))) for entry in reversed(entries)]
            if texts:
                found[code.co_name, code.co_filename, code.co_firstlineno] = texts
    return found


def _texts(tree: str) -> Iterator[str]:
    for line in tree.splitlines():
        match = _LINE.search(line)
        if match is None or match["kind"] in _PLUMBING or "Manager" in match["kind"]:
            continue
        if "[" in match["text"] and not match["text"].startswith(("source=", "hasattr(")):
            yield match["text"].strip()
