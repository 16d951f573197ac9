"""The scheduler's gRPC shell: a server that listens for one job.

It runs an event loop of its own in a thread, so that the program that trains stays synchronous.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from nexus_runtime.errors import SchedulerError
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.coordinator import Coordinator
from nexus_runtime.scheduler.security import Credentials
from nexus_runtime.scheduler.servicer import Servicer
from nexus_runtime.scheduler.wire import OPTIONS
from nexus_runtime.scheduler.work import Observer, Work

TICK_SECONDS = 0.1
FAREWELL_SECONDS = 5.0
"""So long a worker that is between two polls may take to ask again when the job is over."""
SERVER_OPTIONS = [
    *OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
]
_SERVICE = pb.DESCRIPTOR.services_by_name["Scheduler"].full_name


class Server:
    """A scheduler that listens, in a thread of its own, for one job.

    Args:
        work: the job.
        credentials: the scheduler's own; workers must have theirs from the same authority.
        observer: is told of the progress.
        listen: "host:port"; port 0 takes a free one.
    """

    def __init__(
        self,
        work: Work,
        credentials: Credentials,
        observer: Observer,
        *,
        listen: str = "127.0.0.1:0",
    ) -> None:
        self._work, self._observer, self._listen = work, observer, listen
        self._credentials = credentials
        self._loop = asyncio.new_event_loop()
        self._started: Future[Coordinator] = Future()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="nexus-scheduler", daemon=True)
        self.port = 0

    def start(self) -> Coordinator:
        """Begin to listen; returns the job's coordinator, to be looked at only.

        Raises:
            SchedulerError: the address cannot be listened at.
        """
        self._thread.start()
        return self._started.result()

    def submit(self, make: Callable[[float], ev.Event]) -> None:
        """Give the job an event, from any thread; `make` gets the time of the scheduler's clock."""
        job = self._started.result()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the job is over
            self._loop.call_soon_threadsafe(lambda: job.handle(make(job.now())))

    def close(self) -> None:
        """Release the workers and stop listening."""
        if self._thread.is_alive() and self._stop is not None:
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
        self._stop = asyncio.Event()
        job = Coordinator(self._work, self._observer, time.monotonic)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        rpc.add_SchedulerServicer_to_server(Servicer(job), server)
        self.port = await start(server, (_SERVICE,), self._credentials, self._listen)
        job.start()
        self._started.set_result(job)
        ticks = asyncio.create_task(self._tick(job))
        await self._stop.wait()
        ticks.cancel()
        await job.dismissed(FAREWELL_SECONDS)
        # Ends as soon as every call has its answer; on a busy machine that takes a while.
        await server.stop(grace=3.0)
        job.close()

    async def _tick(self, job: Coordinator) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            job.handle(ev.Ticked(at=job.now()))


async def start(
    server: grpc.aio.Server, services: Sequence[str], own: Credentials, listen: str
) -> int:
    """Let `server` listen with mutual TLS, health checks and reflection; returns its port.

    Raises:
        SchedulerError: the address cannot be listened at.
    """
    checks = HealthServicer()
    for name in ("", *services):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*services, HEALTH, reflection.SERVICE_NAME), server)
    credentials = grpc.ssl_server_credentials(
        [(own.key, own.certificate)], root_certificates=own.authority, require_client_auth=True
    )
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise SchedulerError(
            f"cannot listen at {listen}", hint="another program may hold this port"
        ) from error
    await server.start()
    return port
