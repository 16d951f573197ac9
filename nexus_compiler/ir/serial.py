"""TVM's objects as text that this version of TVM reads again."""

from __future__ import annotations

from typing import Any

import tvm
from tvm_ffi import serialization


def dumps(value: Any) -> str:
    """TVM's JSON of an object."""
    # TVM's own strings are a subclass of `str` that other libraries refuse.
    return str(str(tvm.ir.save_json(value)))


def loads(text: str) -> Any:
    """The object of what `dumps` of the same TVM wrote; keys in the store have its version.

    `tvm.ir.load_json` first brings text of other versions up to date, which takes ten times as
    long as reading it.

    Raises:
        ValueError: it is no such text.
    """
    try:
        return serialization.from_json_graph_str(text)
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
