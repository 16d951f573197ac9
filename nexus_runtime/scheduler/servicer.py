"""Answers the calls of scheduler.proto: who speaks, what event it is, which message goes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from nexus_runtime.errors import NexusError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.coordinator import Coordinator
from nexus_runtime.scheduler.profile import Sample, batches_to_measure
from nexus_runtime.scheduler.wire import POLL_SECONDS, PROTOCOL, blob_message
from nexus_runtime.scheduler.work import Fenced, Finished
from nexus_runtime.trainer import Gradients

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
        first = await anext(aiter(request_iterator), pb.PushRequest())
        await _authenticate(first.head.worker, context)
        try:
            blob = self._assembler(first.head)
            blob.add(first.data)
            async for request in request_iterator:
                blob.add(request.data)
            return self._count(first.head, blob.finish())
        except NexusError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, error.message)
            return pb.PushReply()

    async def PushWhole(self, request: pb.PushRequest, context: Context) -> pb.PushReply:
        """Take the gradients of a lease in one message."""
        await _authenticate(request.head.worker, context)
        try:
            blob = self._assembler(request.head)
            blob.add(request.data)
            return self._count(request.head, blob.finish())
        except NexusError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, error.message)
            return pb.PushReply()

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
        name = self._job.parameters
        whole = self._job.blob(name.digest) if name.size <= blobs.CHUNK else None
        return pb.Lease(
            id=lease.id,
            round=lease.round,
            shard=lease.shard,
            epoch=lease.epoch,
            start=lease.start,
            stop=lease.stop,
            seed=lease.seed,
            row=lease.row,
            parameters=blob_message(name),
            seconds=lease.deadline - self._job.now(),
            parameter_data=whole or b"",
        )

    def _assembler(self, head: pb.PushHead) -> blobs.Assembler:
        name = blobs.BlobRef(head.gradients.digest, head.gradients.size)
        return blobs.Assembler(name, limit=self._job.gradient_limit)

    def _count(self, head: pb.PushHead, data: bytes) -> pb.PushReply:
        grads = blobs.decode(data, like=self._job.work.trainer.params)
        sums = Gradients(head.loss_sum, head.correct, head.count, grads)
        ack = self._job.push(self._result(head), sums)
        return pb.PushReply(counted=ack.counted, reason=ack.reason)

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


async def _authenticate(name: str, context: Context) -> None:
    """Refuse a call whose sender gives another name than its certificate."""
    identity: Any = context.auth_context().get("x509_common_name", [])
    if name.encode() not in identity:
        holder = identity[0].decode() if identity else "nobody"
        text = f"the certificate is of '{holder}', the call says '{name}'"
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)


def _fenced(instructions: list[do.Instruction]) -> bool:
    return any(isinstance(instruction, do.FenceWorker) for instruction in instructions)
