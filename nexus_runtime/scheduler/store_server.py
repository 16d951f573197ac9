"""A store service that listens, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import grpc.aio

from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.security import Authority, Credentials
from nexus_runtime.scheduler.server import SERVER_OPTIONS, TICK_SECONDS, start
from nexus_runtime.scheduler.shelf import Shelf
from nexus_runtime.scheduler.store_service import StoreServicer

_SERVICE = pb.DESCRIPTOR.services_by_name["Store"].full_name


class StoreServer:
    """A team's store.

    Args:
        root: where entries are kept; this process alone may use it.
        credentials: the service's own; clients must have theirs from the same authority.
        listen: "host:port"; port 0 takes a free one.
        limit: bytes that it may hold.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        root: Path,
        credentials: Credentials,
        *,
        listen: str = "127.0.0.1:0",
        limit: int = 100 * 10**9,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._credentials, self._listen = root, credentials, listen
        self._limit, self._clock = limit, clock
        self._loop = asyncio.new_event_loop()
        self._started: Future[int] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="nexus-store", daemon=True)

    def start(self) -> int:
        """Begin to listen; returns the port.

        Raises:
            SchedulerError: the address cannot be listened at.
        """
        self._thread.start()
        return self._started.result()

    def wait(self) -> None:
        """Until the service is closed."""
        self._thread.join()

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        # A lease of an earlier service must not be one of this one.
        first = secrets.randbits(48)
        servicer = StoreServicer(Shelf(self._root, limit=self._limit), self._clock, first=first)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        rpc.add_StoreServicer_to_server(servicer, server)
        self._started.set_result(await start(server, (_SERVICE,), self._credentials, self._listen))
        ticks = asyncio.create_task(_tick(servicer))
        await self._stop.wait()
        ticks.cancel()
        await server.stop(grace=0.5)


async def _tick(servicer: StoreServicer) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        servicer.tick()


def issue(directory: Path, hosts: list[str], clients: list[str]) -> None:
    """Make credentials: `directory`/service for the service, `directory`/NAME for each client.

    Args:
        directory: where they are written.
        hosts: names and addresses by which clients dial the service, beside those of loopback.
        clients: names of machines or people.
    """
    authority = Authority()
    authority.server(hosts).write(directory / "service")
    for client in clients:
        authority.worker(client).write(directory / client)
