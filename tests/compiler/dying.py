"""A worker of `nexusc conformance` that dies; apart, for a process that imports nothing else."""

from __future__ import annotations

import sys
from typing import Any


def main(pipe: Any) -> None:
    """End at once when a task comes."""
    pipe.send(None)
    pipe.recv()
    sys.exit(3)
