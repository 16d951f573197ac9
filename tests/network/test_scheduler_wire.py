"""The gRPC shell: who is refused, what is refused, and that nothing refused is counted."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from scheduler_model import NumpyGraph, NumpySteps, load

from nexus_runtime import data
from nexus_runtime.errors import SchedulerError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler import scheduler_pb2 as pb
from nexus_runtime.scheduler import scheduler_pb2_grpc as rpc
from nexus_runtime.scheduler.events import JobAborted, JobSpec, Timing
from nexus_runtime.scheduler.progress import Quiet
from nexus_runtime.scheduler.security import Authority, Credentials
from nexus_runtime.scheduler.server import Server
from nexus_runtime.scheduler.wire import OPTIONS
from nexus_runtime.scheduler.work import Work
from nexus_runtime.scheduler.worker import Worker, WorkerOptions
from nexus_runtime.trainer import Trainer

DEADLINE = 20.0


class Job:
    """A scheduler with one job, and its authority."""

    def __init__(self, graph: NumpyGraph, *, workers: int = 1, artifact: bytes = b"model") -> None:
        self.trainer = Trainer(NumpySteps(graph))
        self.data = self.trainer.fit_data(data.load("digits"))
        self.authority = Authority()
        spec = JobSpec(
            samples=256,
            batch_size=128,
            epochs=1,
            expected_workers=workers,
            timing=Timing(start_grace=DEADLINE),
        )
        work = Work(
            name="test",
            spec=spec,
            trainer=self.trainer,
            data=self.data,
            data_source="digits",
            artifact=artifact,
            learning_rate=0.01,
        )
        self.server = Server(work, self.authority.server(), Quiet())
        self.state = self.server.start()

    @property
    def address(self) -> str:
        return f"localhost:{self.server.port}"

    def channel(self, credentials: Credentials | None) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(self.address)
        own = credentials
        tls = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
        return grpc.secure_channel(self.address, tls, options=OPTIONS)


@contextlib.contextmanager
def _job(**settings):
    job = Job(settings.pop("graph", NumpyGraph()), **settings)
    try:
        yield job
    finally:
        job.server.close()


@contextlib.contextmanager
def _stub(job: Job, name: str = "lab-0"):
    with job.channel(job.authority.worker(name)) as channel:
        yield rpc.SchedulerStub(channel)


def _register(stub, name: str = "lab-0") -> pb.RegisterReply:
    request = pb.RegisterRequest(worker=name, pool="lab", protocol=1)
    return stub.Register(request, timeout=DEADLINE)


def _leased(stub, name: str = "lab-0") -> tuple[int, pb.Lease]:
    session = _register(stub, name).session
    profile = [pb.Measurement(batch=8, seconds=0.01)]
    stub.Ready(pb.ReadyRequest(worker=name, session=session, profile=profile), timeout=DEADLINE)
    answer = stub.Poll(pb.PollRequest(worker=name, session=session), timeout=DEADLINE)
    assert answer.kind == pb.PollReply.LEASE
    return session, answer.lease


def _head(session: int, lease: pb.Lease, raw: bytes, **changes) -> pb.PushHead:
    name = blobs.ref(raw)
    fields = {
        "worker": "lab-0",
        "session": session,
        "lease": lease.id,
        "round": lease.round,
        "shard": lease.shard,
        "count": lease.stop - lease.start,
        "loss_sum": 1.0,
        "seconds": 0.01,
        "gradients": pb.Blob(digest=name.digest, size=name.size),
    }
    return pb.PushHead(**{**fields, **changes})


def _push(stub, head: pb.PushHead, raw: bytes, *, whole: bool = False) -> pb.PushReply:
    if whole:
        return stub.PushWhole(pb.PushRequest(head=head, data=raw), timeout=DEADLINE)
    requests = [pb.PushRequest(data=chunk) for chunk in blobs.chunks(raw)]
    requests[0].head.CopyFrom(head)
    return stub.Push(iter(requests), timeout=DEADLINE)


def _code(call) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def test_a_stranger_is_refused():
    with _job() as job:
        for stranger in (None, Authority().worker("lab-0")):
            with job.channel(stranger) as channel:
                stub = rpc.SchedulerStub(channel)
                assert _code(lambda s=stub: _register(s)) == grpc.StatusCode.UNAVAILABLE


def test_a_server_without_our_authority_is_not_believed():
    with _job() as job:
        mixed = job.authority.worker("lab-0")
        other = Authority().worker("lab-0")
        wrong = Credentials(other.authority, mixed.certificate, mixed.key)
        with job.channel(wrong) as channel:
            call = rpc.SchedulerStub(channel)
            assert _code(lambda: _register(call)) == grpc.StatusCode.UNAVAILABLE


def test_a_worker_cannot_take_anothers_name():
    with _job() as job, _stub(job, "lab-0") as stub:
        session = _register(stub).session
        calls = [
            lambda: _register(stub, "lab-1"),
            lambda: stub.Ready(pb.ReadyRequest(worker="lab-1", session=session), timeout=DEADLINE),
            lambda: stub.Poll(pb.PollRequest(worker="lab-1", session=session), timeout=DEADLINE),
            lambda: stub.Heartbeat(
                pb.HeartbeatRequest(worker="lab-1", session=session), timeout=DEADLINE
            ),
            lambda: stub.Leave(pb.LeaveRequest(worker="lab-1", session=session), timeout=DEADLINE),
            lambda: _push(stub, pb.PushHead(worker="lab-1"), b""),
            lambda: _push(stub, pb.PushHead(worker="lab-1"), b"", whole=True),
        ]
        for call in calls:
            assert _code(call) == grpc.StatusCode.PERMISSION_DENIED


def test_another_protocol_is_refused():
    with _job() as job, _stub(job) as stub:
        request = pb.RegisterRequest(worker="lab-0", pool="lab", protocol=99)
        call = lambda: stub.Register(request, timeout=DEADLINE)  # noqa: E731
        assert _code(call) == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("whole", [False, True])
def test_a_tampered_gradient_is_refused_and_the_true_one_still_counts(whole):
    with _job() as job, _stub(job) as stub:
        session, lease = _leased(stub)
        raw = blobs.encode({n: np.zeros_like(p) for n, p in job.trainer.params.items()})
        head = _head(session, lease, raw)
        changed = raw[:-1] + bytes([raw[-1] ^ 1])
        strange = blobs.encode({"b1": np.zeros(3, np.float32)})
        huge = _head(session, lease, raw, gradients=pb.Blob(digest="0" * 64, size=1 << 40))
        wrong = [(head, changed), (head, raw[:-1]), (head, raw + b"x"), (huge, raw)]
        wrong.append((_head(session, lease, strange), strange))
        for bad, sent in wrong:
            call = lambda h=bad, d=sent: _push(stub, h, d, whole=whole)  # noqa: E731
            assert _code(call) == grpc.StatusCode.DATA_LOSS
        assert _push(stub, head, raw, whole=whole).counted
        again = _push(stub, head, raw, whole=whole)
        assert not again.counted
        assert again.reason in {"this shard was already counted", "round 0 is over"}


def test_a_large_artifact_comes_in_small_messages_and_from_any_offset():
    raw = np.random.default_rng(0).bytes(3 * blobs.CHUNK + 5)
    with _job(artifact=raw) as job, _stub(job) as stub:
        announced = _register(stub).artifact
        assert (announced.digest, announced.size) == (blobs.ref(raw).digest, len(raw))
        for offset in (0, 1, blobs.CHUNK, len(raw)):
            request = pb.FetchRequest(digest=announced.digest, offset=offset)
            chunks = [chunk.data for chunk in stub.Fetch(request, timeout=DEADLINE)]
            assert max(map(len, chunks)) <= blobs.CHUNK
            assert b"".join(chunks) == raw[offset:]
        for digest, offset in (("0" * 64, 0), (announced.digest, len(raw) + 1)):
            request = pb.FetchRequest(digest=digest, offset=offset)
            call = lambda r=request: list(stub.Fetch(r, timeout=DEADLINE))  # noqa: E731
            assert _code(call) == grpc.StatusCode.NOT_FOUND


def test_an_old_session_is_fenced():
    with _job() as job, _stub(job) as stub:
        old = _register(stub).session
        new = _register(stub).session
        beat = pb.HeartbeatRequest(worker="lab-0", session=old)
        assert stub.Heartbeat(beat, timeout=DEADLINE).fenced
        poll = pb.PollRequest(worker="lab-0", session=old)
        assert stub.Poll(poll, timeout=DEADLINE).kind == pb.PollReply.FENCED
        beat = pb.HeartbeatRequest(worker="lab-0", session=new)
        assert not stub.Heartbeat(beat, timeout=DEADLINE).fenced


def test_a_worker_between_two_polls_learns_that_the_job_is_over():
    with _job() as job, _stub(job) as stub:
        session, _ = _leased(stub)
        job.server.submit(lambda at: JobAborted(at=at, reason="enough", hint=""))
        with pytest.raises(SchedulerError, match="enough"):
            job.state.outcome.result(DEADLINE)
        closing = threading.Thread(target=job.server.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()  # it waits for the worker, and still listens
        request = pb.PollRequest(worker="lab-0", session=session)
        assert stub.Poll(request, timeout=DEADLINE).kind == pb.PollReply.FINISHED
        closing.join(DEADLINE)
        assert not closing.is_alive()


def test_health_and_reflection_answer_those_who_may_ask():
    with _job() as job, job.channel(job.authority.worker("lab-0")) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest(service="nexus.scheduler.v1.Scheduler")
        assert check(request, timeout=DEADLINE).status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        (answer,) = info(iter([ask]), timeout=DEADLINE)
        names = {service.name for service in answer.list_services_response.service}
        assert "nexus.scheduler.v1.Scheduler" in names


def _worker(job: Job, name: str, **options) -> Worker:
    settings = WorkerOptions(
        scheduler=job.address,
        credentials=options.pop("credentials", job.authority.worker(name)),
        pool="lab",
        name=name,
        **{"patience": 2.0, **options},
    )
    return Worker(settings, load=load)


def _artifact(tmp_path: Path, graph: NumpyGraph) -> bytes:
    path = tmp_path / "a.nxa"
    graph.build_training(path, loss="auto", optimizer="adam", options={}, targets=("native",))
    return path.read_bytes()


@pytest.mark.parametrize("hidden", [32, 6000])
def test_two_workers_and_one_give_the_same_parameters(tmp_path, hidden):
    """256 samples are two rounds; 6000 hidden units are 1.8 MB, which do not fit one message."""
    graph, results = NumpyGraph(hidden=hidden), []
    for count, limit in ((1, None), (2, 100)):
        with _job(graph=graph, artifact=_artifact(tmp_path, graph), workers=count) as job:
            workers = [_worker(job, f"lab-{i}", memory_limit_samples=limit) for i in range(count)]
            threads = [threading.Thread(target=worker.run) for worker in workers]
            for thread in threads:
                thread.start()
            job.state.outcome.result(DEADLINE)
            for thread in threads:
                thread.join(DEADLINE)
            results.append(job.trainer.params)
            assert len(job.state.history[0].shares) == count
    for name, param in results[0].items():
        # Adam divides by the gradient's size: where that is rounding, so is the step.
        np.testing.assert_allclose(results[1][name], param, rtol=1e-4, atol=1e-3)
        assert np.abs(results[1][name] - param).mean() < 1e-6


def test_a_worker_with_other_data_leaves_and_says_why(tmp_path):
    with _job(artifact=_artifact(tmp_path, NumpyGraph())) as job:
        object.__setattr__(job.data, "train_y", job.data.train_y.copy()[::-1])
        with pytest.raises(Exception, match="differs from the scheduler's"):
            _worker(job, "lab-0").run()
        (worker,) = job.state.machine.workers.values()
        assert worker.standing == "lost"


def test_a_worker_without_a_scheduler_gives_up_after_its_patience():
    with _job() as job:
        pass
    begin = time.monotonic()
    with pytest.raises(SchedulerError, match="cannot be reached") as caught:
        _worker(job, "lab-0", patience=0.5).run()
    assert time.monotonic() - begin < DEADLINE
    assert "credentials" in caught.value.hint


def test_a_worker_with_the_wrong_name_is_told():
    with _job() as job:
        wrong = job.authority.worker("lab-1")
        with pytest.raises(SchedulerError, match="the certificate is of 'lab-1'"):
            _worker(job, "lab-0", credentials=wrong).run()
