"""The scheduler's gRPC shell: checks who speaks, turns calls into events and answers into messages.

It runs an event loop of its own in a thread, so that the program that trains stays synchronous.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from nexus_runtime.errors import NexusError, SchedulerError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.coordinator import Coordinator
from nexus_runtime.scheduler.profile import Sample, batches_to_measure
from nexus_runtime.scheduler.security import Credentials
from nexus_runtime.scheduler.wire import OPTIONS, POLL_SECONDS, PROTOCOL, blob_message
from nexus_runtime.scheduler.work import Fenced, Finished, Observer, Work
from nexus_runtime.trainer import Gradients

TICK_SECONDS = 0.1
_SERVER_OPTIONS = [
    *OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
]
_SERVICE = pb.DESCRIPTOR.services_by_name["Scheduler"].full_name
Context = grpc.aio.ServicerContext


class Servicer(rpc.SchedulerServicer):
    """One method for each call of scheduler.proto. The sender's name must be its certificate's."""

    def __init__(self, job: Coordinator) -> None:
        self._job = job
        self._sessions = 0

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterReply:
        """A worker comes, or comes back."""
        await _authenticate(request.worker, context)
        if request.protocol != PROTOCOL:
            text = f"this scheduler speaks protocol {PROTOCOL}, the worker {request.protocol}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        self._sessions += 1
        job, work = self._job, self._job.work
        job.handle(
            ev.WorkerRegistered(
                at=job.now(), worker=request.worker, session=self._sessions, pool=request.pool
            )
        )
        return pb.RegisterReply(
            session=self._sessions,
            job=work.name,
            artifact=blob_message(job.artifact),
            data=work.data_source,
            data_fingerprint=work.data.fingerprint(),
            seed=work.spec.seed,
            profile_batches=batches_to_measure(work.spec.batch_size, work.spec.samples),
            heartbeat_seconds=work.spec.timing.patience / 5,
        )

    async def Ready(self, request: pb.ReadyRequest, context: Context) -> pb.ReadyReply:
        """The worker has measured itself."""
        await _authenticate(request.worker, context)
        profile = tuple(Sample(m.batch, m.seconds) for m in request.profile)
        if not profile:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the profile is empty")
        ready = ev.WorkerReady(
            at=self._job.now(),
            worker=request.worker,
            session=request.session,
            profile=profile,
            memory_limit=request.memory_limit_samples or None,
        )
        return pb.ReadyReply(fenced=_fenced(self._job.handle(ready)))

    async def Poll(self, request: pb.PollRequest, context: Context) -> pb.PollReply:
        """Wait for a lease."""
        await _authenticate(request.worker, context)
        answer = await self._job.poll(request.worker, request.session, POLL_SECONDS)
        if isinstance(answer, do.Lease):
            return pb.PollReply(kind=pb.PollReply.LEASE, lease=self._lease(answer))
        if isinstance(answer, Fenced):
            return pb.PollReply(kind=pb.PollReply.FENCED, reason=answer.reason)
        kind = pb.PollReply.FINISHED if isinstance(answer, Finished) else pb.PollReply.NOTHING
        return pb.PollReply(kind=kind)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.Chunk]:
        """Send a blob in chunks."""
        data = self._job.blob(request.digest)
        if data is None or not 0 <= request.offset <= len(data):
            text = "this blob is not held (any more)"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
            return
        for chunk in blobs.chunks(data, request.offset):
            yield pb.Chunk(data=chunk)

    async def Push(
        self, request_iterator: AsyncIterator[pb.PushRequest], context: Context
    ) -> pb.PushReply:
        """Take the gradients of a lease."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nothing was pushed")
            return pb.PushReply()
        head = first.head
        await _authenticate(head.worker, context)
        name = blobs.BlobRef(head.gradients.digest, head.gradients.size)
        try:
            blob = blobs.Assembler(name, limit=self._job.gradient_limit)
            blob.add(first.data)
            async for request in request_iterator:
                blob.add(request.data)
            grads = blobs.decode(blob.finish(), like=self._job.work.trainer.params)
        except NexusError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, error.message)
            return pb.PushReply()
        ack = self._job.push(self._result(head), _sums(head, grads))
        return pb.PushReply(counted=ack.counted, reason=ack.reason)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatReply:
        """The worker lives."""
        await _authenticate(request.worker, context)
        beat = ev.HeartbeatReceived(
            at=self._job.now(), worker=request.worker, session=request.session
        )
        return pb.HeartbeatReply(fenced=_fenced(self._job.handle(beat)))

    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveReply:
        """The worker goes."""
        await _authenticate(request.worker, context)
        left = ev.WorkerLeft(
            at=self._job.now(),
            worker=request.worker,
            session=request.session,
            reason=request.reason or "it left",
        )
        self._job.handle(left)
        return pb.LeaveReply()

    def _lease(self, lease: do.Lease) -> pb.Lease:
        return pb.Lease(
            id=lease.id,
            round=lease.round,
            shard=lease.shard,
            epoch=lease.epoch,
            start=lease.start,
            stop=lease.stop,
            seed=lease.seed,
            row=lease.row,
            parameters=blob_message(self._job.parameters),
            seconds=lease.deadline - self._job.now(),
        )

    def _result(self, head: pb.PushHead) -> ev.ResultPushed:
        return ev.ResultPushed(
            at=self._job.now(),
            worker=head.worker,
            session=head.session,
            lease=head.lease,
            round=head.round,
            shard=head.shard,
            digest=head.gradients.digest,
            count=head.count,
            seconds=head.seconds,
        )


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
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        rpc.add_SchedulerServicer_to_server(Servicer(job), server)
        await self._add_standard_services(server)
        try:
            self.port = server.add_secure_port(self._listen, self._channel_credentials())
        except RuntimeError as error:
            raise SchedulerError(
                f"cannot listen at {self._listen}", hint="another program may hold this port"
            ) from error
        await server.start()
        job.start()
        self._started.set_result(job)
        ticks = asyncio.create_task(self._tick(job))
        await self._stop.wait()
        ticks.cancel()
        await server.stop(grace=0.5)
        job.close()

    async def _tick(self, job: Coordinator) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            job.handle(ev.Ticked(at=job.now()))

    def _channel_credentials(self) -> grpc.ServerCredentials:
        own = self._credentials
        return grpc.ssl_server_credentials(
            [(own.key, own.certificate)],
            root_certificates=own.authority,
            require_client_auth=True,
        )

    async def _add_standard_services(self, server: grpc.aio.Server) -> None:
        checks = HealthServicer()
        for name in ("", _SERVICE):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        names = (_SERVICE, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)


async def _authenticate(name: str, context: Context) -> None:
    """Refuse a call whose sender gives another name than its certificate."""
    identity: Any = context.auth_context().get("x509_common_name", [])
    if name.encode() not in identity:
        holder = identity[0].decode() if identity else "nobody"
        text = f"the certificate is of '{holder}', the call says '{name}'"
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)


def _fenced(instructions: list[do.Instruction]) -> bool:
    return any(isinstance(instruction, do.FenceWorker) for instruction in instructions)


def _sums(head: pb.PushHead, grads: dict[str, Any]) -> Gradients:
    return Gradients(head.loss_sum, head.correct, head.count, grads)
