"""The runtime: load an artifact, run it, train with it on many devices; no compiler needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nexus_runtime.artifact import Artifact
from nexus_runtime.errors import NexusError
from nexus_runtime.module import Module, load

if TYPE_CHECKING:
    from nexus_runtime.scheduler.config import ClusterConfig, DeviceType
    from nexus_runtime.scheduler.facade import Scheduler
    from nexus_runtime.trainer import Trainer

__all__ = [
    "Artifact",
    "ClusterConfig",
    "DeviceType",
    "Module",
    "NexusError",
    "Scheduler",
    "Trainer",
    "load",
]

# Loaded when they are first named: a device that only runs a model needs neither gRPC nor TLS.
_LAZY = {
    "ClusterConfig": "nexus_runtime.scheduler.config",
    "DeviceType": "nexus_runtime.scheduler.config",
    "Scheduler": "nexus_runtime.scheduler.facade",
    "Trainer": "nexus_runtime.trainer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'nexus_runtime' has no attribute '{name}'")
