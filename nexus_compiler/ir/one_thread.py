"""One thread at a time builds Relax: what is open in TVM's builders, the whole process shares.

`relax.BlockBuilder` and the tags of `te` keep a stack of the class, so that two threads that build
at once find each other's scopes. Kernels are compiled outside of this lock, on many threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

LOCK = threading.RLock()

P = ParamSpec("P")
R = TypeVar("R")


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, for which threads wait for each other; it may call others that are such."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with LOCK:
            return function(*args, **kwargs)

    return alone
