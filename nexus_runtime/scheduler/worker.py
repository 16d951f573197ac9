"""A worker: dials the scheduler, measures itself, and computes one lease after the other.

It only dials out, so it may stand behind a firewall. Every call may be repeated without harm: a
lease that was not answered is handed out again, and a result that was counted is not counted again.
A worker that was given up (it slept, its link was down) registers anew and goes on.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import nexus_runtime
from nexus_runtime import data as datasets
from nexus_runtime.errors import DataError, NexusError, SchedulerError
from nexus_runtime.files import write_atomically
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.profile import Sample, measure
from nexus_runtime.scheduler.security import Credentials
from nexus_runtime.scheduler.wire import OPTIONS, POLL_SECONDS, PROTOCOL, blob_message
from nexus_runtime.trainer import Gradients, Trainer, TrainingSteps

Load = Callable[[Path, int], TrainingSteps]
_LARGEST_BLOB = 1 << 36
_PAUSE = 0.5  # before registering again; two workers of one name must not keep each other busy
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # A scheduler that stops, or goes away in the middle of a call, says this; no worker does.
    grpc.StatusCode.CANCELLED,
}


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a worker joins.

    Attributes:
        scheduler: "host:port".
        name: must be the common name of the certificate in `credentials`.
        threads: CPU threads of one computation.
        memory_limit_samples: rows that fit at once; larger shards are computed in pieces.
        patience: seconds without a scheduler after which the worker ends.
    """

    scheduler: str
    credentials: Credentials
    pool: str
    name: str
    threads: int = 1
    memory_limit_samples: int | None = None
    patience: float = 30.0


def load_artifact(path: Path, threads: int) -> TrainingSteps:
    """Load an artifact for this machine."""
    return nexus_runtime.load(path, num_threads=threads)


class Worker:
    """One session after the other with one scheduler, until the job is over."""

    def __init__(self, options: WorkerOptions, *, load: Load = load_artifact) -> None:
        self._options, self._load = options, load
        own = options.credentials
        credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
        self._channel = grpc.secure_channel(options.scheduler, credentials, options=OPTIONS)
        self._stub = rpc.SchedulerStub(self._channel)
        self._model: _Model | None = None
        self._parameters: tuple[str, dict[str, np.ndarray]] = ("", {})

    def run(self) -> None:
        """Work until the job is over.

        Raises:
            SchedulerError: the scheduler cannot be reached, or refuses this worker.
            DataError, ArtifactError: the data set or the artifact cannot be used here.
        """
        with self._channel:
            while not self._session():
                time.sleep(_PAUSE)

    def _session(self) -> bool:
        """Register and work; whether the job is over (otherwise the session was given up)."""
        options = self._options
        request = pb.RegisterRequest(worker=options.name, pool=options.pool, protocol=PROTOCOL)
        job = self._call(self._stub.Register, request)
        stop = threading.Event()
        beats = threading.Thread(target=self._beat, args=(job, stop), daemon=True)
        beats.start()
        try:
            return self._work(job)
        except NexusError as error:
            self._leave(job, error.message)
            raise
        finally:
            stop.set()
            beats.join()

    def _work(self, job: pb.RegisterReply) -> bool:
        if self._model is None or self._model.artifact != job.artifact.digest:
            self._model = self._prepare(job)
        model, session = self._model, job.session
        ready = pb.ReadyRequest(
            worker=self._options.name,
            session=session,
            profile=[
                pb.Measurement(batch=sample.batch, seconds=sample.seconds)
                for sample in model.profile(job.profile_batches)
            ],
            memory_limit_samples=self._options.memory_limit_samples or 0,
        )
        if self._call(self._stub.Ready, ready).fenced:
            return False
        poll = pb.PollRequest(worker=self._options.name, session=session)
        while True:
            answer = self._call(self._stub.Poll, poll, timeout=POLL_SECONDS * 2)
            if answer.kind == pb.PollReply.FINISHED:
                return True
            if answer.kind == pb.PollReply.FENCED:
                return False
            if answer.kind == pb.PollReply.LEASE:
                self._compute(model, session, answer.lease)

    def _prepare(self, job: pb.RegisterReply) -> _Model:
        artifact = self._fetch(job.artifact)
        if artifact is None:
            raise SchedulerError("the scheduler does not hold its own artifact")
        with tempfile.TemporaryDirectory(prefix="nexus-") as directory:
            path = write_atomically(Path(directory) / "job.nxa", artifact)
            module = self._load(path, self._options.threads)
        trainer = Trainer(module, rows_at_once=self._options.memory_limit_samples)
        data = datasets.load(job.data)
        if data.fingerprint() != job.data_fingerprint:
            raise DataError(
                f"the data set '{job.data}' of this machine differs from the scheduler's",
                hint="copy the scheduler's files here",
            )
        return _Model(job.artifact.digest, trainer, trainer.fit_data(data), job.seed)

    def _compute(self, model: _Model, session: int, lease: pb.Lease) -> None:
        digest, params = self._parameters
        if digest != lease.parameters.digest:
            fetched = self._fetch(lease.parameters, lease.parameter_data)
            if fetched is None:  # the round is over: this lease is no longer ours
                return
            params = blobs.decode(fetched, like=model.trainer.params)
            self._parameters = (lease.parameters.digest, params)
        begin = time.perf_counter()
        sums = model.gradients(lease, params)
        seconds = time.perf_counter() - begin
        data = blobs.encode(sums.grads)
        head = pb.PushHead(
            worker=self._options.name,
            session=session,
            lease=lease.id,
            round=lease.round,
            shard=lease.shard,
            count=sums.count,
            loss_sum=sums.loss_sum,
            correct=sums.correct,
            seconds=seconds,
            gradients=blob_message(blobs.ref(data)),
        )
        # Whether it counted is the scheduler's affair: either way this lease is done.
        if len(data) <= blobs.CHUNK:
            self._call(self._stub.PushWhole, pb.PushRequest(head=head, data=data))
        else:
            self._call(lambda _, timeout: self._stub.Push(_push(head, data), timeout=timeout), None)

    def _fetch(self, blob: pb.Blob, whole: bytes = b"") -> bytes | None:
        """Get a blob, going on where a broken transfer stopped; None where it is not held.

        Where it came along as a `whole`, that is verified and nothing is fetched.
        """
        announced = blobs.BlobRef(blob.digest, blob.size)
        assembler = blobs.Assembler(announced, limit=_LARGEST_BLOB)

        if whole:
            assembler.add(whole)
            return assembler.finish()

        def read(_: object, timeout: float) -> None:
            request = pb.FetchRequest(digest=blob.digest, offset=assembler.size)
            for chunk in self._stub.Fetch(request, timeout=timeout):
                assembler.add(chunk.data)

        try:
            self._call(read, None, timeout=600.0)
        except _NotFound:
            return None
        return assembler.finish()

    def _beat(self, job: pb.RegisterReply, stop: threading.Event) -> None:
        request = pb.HeartbeatRequest(worker=self._options.name, session=job.session)
        while not stop.wait(job.heartbeat_seconds):
            try:
                self._stub.Heartbeat(request, timeout=job.heartbeat_seconds * 2)
            except grpc.RpcError:
                continue  # the main thread meets the same trouble, and has the patience for it

    def _leave(self, job: pb.RegisterReply, reason: str) -> None:
        request = pb.LeaveRequest(worker=self._options.name, session=job.session, reason=reason)
        try:
            self._stub.Leave(request, timeout=2.0)
        except grpc.RpcError:
            return  # it will be missed soon enough

    def _call(self, method: Callable[..., Any], request: object, *, timeout: float = 60.0) -> Any:
        """Call, and call again while the scheduler is away, for `patience` seconds.

        Raises:
            SchedulerError: it stays away, or refuses.
        """
        begin, pause = time.monotonic(), 0.05
        while True:
            try:
                return method(request, timeout=timeout)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()
                if code == grpc.StatusCode.NOT_FOUND:
                    raise _NotFound(str(details)) from error
                if code not in _TRANSIENT:
                    raise SchedulerError(
                        f"the scheduler at {self._options.scheduler} refused: {details}",
                        hint="the credentials must be the ones made for this worker and job",
                    ) from error
                if time.monotonic() - begin > self._options.patience:
                    raise SchedulerError(
                        f"the scheduler at {self._options.scheduler} cannot be reached: {details}",
                        hint="is it running, and are these credentials of its present job?",
                    ) from error
            time.sleep(pause)
            pause = min(pause * 2, 1.0)


class _NotFound(SchedulerError):
    """The scheduler does not hold this blob (any more)."""


class _Model:
    """The artifact and the data of a job, in memory."""

    def __init__(self, artifact: str, trainer: Trainer, data: datasets.DataSet, seed: int) -> None:
        self.artifact, self.trainer = artifact, trainer
        self._data, self._seed = data, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def profile(self, sizes: Iterable[int]) -> tuple[Sample, ...]:
        """Measure the gradients of batches of these sizes."""
        x, y = self._data.train_x, self._data.train_y
        batches = list(sizes)
        return measure(lambda b: self.trainer.gradients(x[:b], y[:b], seed=0, row=0), batches)

    def gradients(self, lease: pb.Lease, params: dict[str, np.ndarray]) -> Gradients:
        """The sums that a lease asks for."""
        if self._order[0] != lease.epoch:
            fresh = datasets.order(self._seed, lease.epoch, len(self._data.train_y))
            self._order = (lease.epoch, fresh)
        rows = self._order[1][lease.start : lease.stop]
        x, y = self._data.train_x[rows], self._data.train_y[rows]
        return self.trainer.gradients(x, y, seed=lease.seed, row=lease.row, params=params)


def _push(head: pb.PushHead, data: bytes) -> Iterator[pb.PushRequest]:
    for index, chunk in enumerate(blobs.chunks(data)):
        yield pb.PushRequest(data=chunk) if index else pb.PushRequest(head=head, data=chunk)
