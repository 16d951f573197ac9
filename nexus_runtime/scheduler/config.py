"""What a user says of the devices: a fluent value, checked when it is written."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nexus_runtime.errors import DeviceError, SchedulerError


class DeviceType(StrEnum):
    """A kind of compute device."""

    CPU = "cpu"
    CUDA = "cuda"
    VULKAN = "vulkan"
    TPU = "tpu"


class Node(msgspec.Struct, frozen=True):
    """A pool of `count` equal devices.

    Attributes:
        threads: CPU threads of each of its workers.
        memory_limit_samples: rows that a worker can hold at once; None: no limit.
    """

    name: str
    device: DeviceType
    count: int
    threads: int = 1
    memory_limit_samples: int | None = None

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of its workers."""
        return tuple(f"{self.name}-{index}" for index in range(self.count))


class ClusterConfig(msgspec.Struct, frozen=True):
    """The devices of a job. Every method returns a new value.

    `ClusterConfig().add_node("lab", DeviceType.CPU, 4)` trains on four workers that share each
    batch evenly. Several pools, whose devices differ in speed, need
    `enable_federated_scheduling()`: workers are then measured, and each gets the share of a batch
    that it can do in the same time.
    """

    nodes: tuple[Node, ...] = ()
    federated: bool = False

    def add_node(
        self,
        name: str,
        device: DeviceType,
        count: int = 1,
        *,
        threads: int = 1,
        memory_limit_samples: int | None = None,
    ) -> ClusterConfig:
        """Add a pool of `count` devices called `name`.

        Raises:
            SchedulerError: the name is taken or empty, or a number is not positive.
            DeviceError: `device` is no DeviceType.
        """
        try:
            kind = DeviceType(device)
        except ValueError as error:
            known = ", ".join(f"DeviceType.{known.name}" for known in DeviceType)
            raise DeviceError(f"there is no device type {device!r}", hint=f"use {known}") from error
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            raise SchedulerError(
                f"'{name}' cannot be a pool's name", hint="use letters, digits, '-', '_' and '.'"
            )
        if any(node.name == name for node in self.nodes):
            raise SchedulerError(
                f"there is a pool '{name}' already",
                hint="raise its count, or name this one otherwise",
            )
        for what, number in (("count", count), ("threads", threads)):
            if number < 1:
                raise SchedulerError(f"{what} of '{name}' is {number}, but must be 1 or more")
        if memory_limit_samples is not None and memory_limit_samples < 1:
            raise SchedulerError(f"memory_limit_samples of '{name}' must be 1 or more, or None")
        node = Node(name, kind, count, threads, memory_limit_samples)
        return msgspec.structs.replace(self, nodes=(*self.nodes, node))

    def enable_federated_scheduling(self) -> ClusterConfig:
        """Let several pools work on one job, each device with the share that its speed allows."""
        return msgspec.structs.replace(self, federated=True)

    def check(self) -> None:
        """Whether a job can be given to this cluster.

        Raises:
            SchedulerError: there is no pool, or there are several without federated scheduling.
        """
        if not self.nodes:
            raise SchedulerError(
                "the cluster has no devices",
                hint='add some: ClusterConfig().add_node("lab", DeviceType.CPU, 2)',
            )
        if len(self.nodes) > 1 and not self.federated:
            names = ", ".join(f"'{node.name}'" for node in self.nodes)
            raise SchedulerError(
                f"the cluster has {len(self.nodes)} pools ({names}), "
                "but a batch is split evenly within one",
                hint="call .enable_federated_scheduling(): it splits by measured speed",
            )

    @property
    def worker_count(self) -> int:
        """Workers of all pools."""
        return sum(node.count for node in self.nodes)
