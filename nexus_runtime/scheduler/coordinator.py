"""Carries out what the state machine says: answers polls, adds gradients, updates, evaluates.

One event loop owns a coordinator; arithmetic runs in one thread beside it, in order, so that
heartbeats are answered while a large update is computed and an epoch is evaluated before the next
update.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from nexus_runtime.errors import NexusError, SchedulerError
from nexus_runtime.scheduler import blobs
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler.aggregation import combine
from nexus_runtime.scheduler.report import EpochReport, PlanReport, Tally
from nexus_runtime.scheduler.state import JobState
from nexus_runtime.scheduler.work import Answer, Fenced, Finished, Observer, Work
from nexus_runtime.trainer import Gradients, scheduled_rate


class Coordinator:
    """One job. All methods are for the thread of the event loop that `clock` belongs to."""

    def __init__(self, work: Work, observer: Observer, clock: Callable[[], float]) -> None:
        self.work = work
        self.machine = JobState()
        self.artifact = blobs.ref(work.artifact)
        self.outcome: Future[None] = Future()
        self.history: list[EpochReport] = list(work.history)
        self.plans: list[PlanReport] = []
        self._observer = observer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "nexus-aggregator")
        self._parameters: dict[str, bytes] = {}  # the present and the last, by digest
        self._present = blobs.BlobRef("", 0)
        self._polls: dict[str, tuple[int, asyncio.Future[Answer]]] = {}  # session, future
        self._results: dict[int, tuple[Gradients, float]] = {}  # by lease: sums, seconds
        self._polling: set[str] = set()  # workers that have polled and do not know of the end
        self._nobody = asyncio.Event()
        self._tally = Tally()
        self._round_begin = 0.0
        self._executors: dict[type[do.Instruction], Callable[[Any], None]] = {
            do.SendLease: self._send_lease,
            do.AcknowledgeResult: lambda _: None,  # the shell finds it in what `handle` returns
            do.FenceWorker: self._fence,
            do.PlanRound: self._note_plan,
            do.CommitRound: self._commit,
            do.FinishEpoch: self._finish_epoch,
            do.FinishJob: self._finish_job,
            do.FailJob: self._fail_job,
        }

    def start(self) -> None:
        """Begin the job."""
        self._publish(blobs.encode(self.work.trainer.params))
        started = ev.JobStarted(at=self.now(), job=self.work.spec, parameters=self._present.digest)
        self.handle(started)

    async def dismissed(self, seconds: float) -> None:
        """Wait until every worker that takes leases knows that the job is over.

        One that is between two polls would find nobody, and take the end for an outage. It has
        `seconds` to ask: it may have died without a word. Nobody is told of a job that has no end.
        """
        if not self.outcome.done():
            return
        self._settle()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nobody.wait(), seconds)

    def close(self) -> None:
        """Stop computing; what is not yet begun never will."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def now(self) -> float:
        """Seconds of the clock that events carry."""
        return self._clock()

    def handle(self, event: ev.Event) -> list[do.Instruction]:
        """Give an event to the state machine and carry out what it says; returns that, too.

        An error of ours on the way ends the job: every job reaches an end.
        """
        if isinstance(event, ev.WorkerLeft):
            self._settle(event.worker)
        try:
            instructions = self.machine.handle(event)
            for instruction in instructions:
                self._executors[type(instruction)](instruction)
        except Exception as error:
            self._end(error)
            return []
        return instructions

    # What workers ask
    def blob(self, digest: str) -> bytes | None:
        """The artifact, or parameters, if they are still held."""
        if digest == self.artifact.digest:
            return self.work.artifact
        return self._parameters.get(digest)

    @property
    def parameters(self) -> blobs.BlobRef:
        """What leases of this moment are to be differentiated at."""
        return self._present

    @property
    def gradient_limit(self) -> int:
        """No result is larger than this, in bytes: as large as the weights, and their names."""
        return 2 * self._present.size + (1 << 16)

    async def poll(self, worker: str, session: int, timeout: float) -> Answer:
        """A lease for the worker, as soon as there is one; None after `timeout` seconds."""
        if self.outcome.done():
            self._settle(worker)
            return Finished()
        self._polling.add(worker)
        self._nobody.clear()
        self._answer(worker, None)  # an earlier poll that the worker has forgotten
        waiting: asyncio.Future[Answer] = self._loop.create_future()
        self._polls[worker] = (session, waiting)
        try:
            self.handle(ev.LeasePolled(at=self.now(), worker=worker, session=session))
            return await asyncio.wait_for(waiting, timeout)
        except TimeoutError:
            return None
        finally:
            if self._polls.get(worker) == (session, waiting):
                del self._polls[worker]

    def push(self, event: ev.ResultPushed, sums: Gradients) -> do.AcknowledgeResult:
        """Offer a result to the machine; it is kept if it counts."""
        fresh = event.lease not in self._results
        self._results.setdefault(event.lease, (sums, event.seconds))
        for instruction in self.handle(event):
            if isinstance(instruction, do.AcknowledgeResult):
                if fresh and not instruction.counted:
                    self._results.pop(event.lease, None)
                return instruction
        raise AssertionError("every result is acknowledged")

    # What the machine says
    def _send_lease(self, send: do.SendLease) -> None:
        self._round_begin = self._round_begin or self.now()
        # Where nobody waits any more, the machine hands the lease over again at the next poll.
        self._answer(send.worker, send.lease)

    def _fence(self, fence: do.FenceWorker) -> None:
        session, _ = self._polls.get(fence.worker, (fence.session, None))
        if session == fence.session:
            self._answer(fence.worker, Fenced(fence.reason))

    def _answer(self, worker: str, answer: Answer) -> None:
        _, waiting = self._polls.pop(worker, (0, None))
        if waiting and not waiting.done():
            waiting.set_result(answer)
            if isinstance(answer, Fenced | Finished):
                self._settle(worker)

    def _settle(self, worker: str = "") -> None:
        """This worker needs no word of the end any more."""
        self._polling.discard(worker)
        if not self._polling:
            self._nobody.set()

    def _note_plan(self, plan: do.PlanRound) -> None:
        report = PlanReport(plan.round, plan.why, plan.placement)
        self.plans.append(report)
        self._observer.planned(report)

    def _commit(self, commit: do.CommitRound) -> None:
        results = [self._results[shard.lease] for shard in commit.shards]
        self._results.clear()
        self._count(commit, results)
        future = self._thread.submit(self._apply, commit, [sums for sums, _ in results])
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._applied, commit, done)
        )

    def _count(self, commit: do.CommitRound, results: list[tuple[Gradients, float]]) -> None:
        tally, now = self._tally, self.now()
        if not tally.rounds:
            tally.begin = self._round_begin or now
        if self._round_begin:
            slowest = max(seconds for _, seconds in results)
            tally.overhead += max(now - self._round_begin - slowest, 0.0)
        tally.rounds += 1
        for shard in commit.shards:
            count = shard.stop - shard.start
            tally.shares[shard.worker] = tally.shares.get(shard.worker, 0) + count

    def _apply(self, commit: do.CommitRound, shards: list[Gradients]) -> tuple[Gradients, bytes]:
        """In the thread: sums in order, mean, one step of the optimiser."""
        spec, trainer = self.work.spec, self.work.trainer
        sums, means = combine(shards, commit.count)
        steps = spec.epochs * spec.rounds_per_epoch
        trainer.update(means, scheduled_rate(commit.step, steps, self.work.learning_rate))
        return sums, blobs.encode(trainer.params)

    def _applied(self, commit: do.CommitRound, done: Future[tuple[Gradients, bytes]]) -> None:
        if done.cancelled():
            return
        if error := done.exception():
            self._abort(error, f"round {commit.round}")
            return
        self._advance(commit, *done.result())

    def _advance(self, commit: do.CommitRound, sums: Gradients, parameters: bytes) -> None:
        tally = self._tally
        tally.loss += sums.loss_sum
        tally.correct += sums.correct
        tally.samples += sums.count
        tally.end = self.now()
        rounds = self.work.spec.rounds_per_epoch
        try:
            self._observer.advanced(commit.epoch + 1, tally.rounds, rounds, tally)
        except Exception as error:
            self._abort(error, f"round {commit.round}")
            return
        self._publish(parameters)
        self._round_begin = self.now()
        applied = ev.RoundApplied(
            at=self._round_begin, round=commit.round, parameters=self._present.digest
        )
        self.handle(applied)

    def _publish(self, parameters: bytes) -> None:
        last = self._present.digest
        self._present = blobs.ref(parameters)
        self._parameters = {
            digest: held for digest, held in self._parameters.items() if digest == last
        }
        self._parameters[self._present.digest] = parameters

    def _finish_epoch(self, finish: do.FinishEpoch) -> None:
        tally, self._tally = self._tally, Tally()
        future = self._thread.submit(self._evaluate, finish.epoch, tally)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._evaluated, finish.epoch, done)
        )

    def _evaluate(self, epoch: int, tally: Tally) -> None:
        """In the thread, before the next update: test, remember, write the checkpoint."""
        trainer, data = self.work.trainer, self.work.data
        report = tally.epoch(epoch + 1, trainer.evaluate(data.test_x, data.test_y))
        self.history.append(report)
        if self.work.checkpoint:
            about = dict(self.work.about or {}, history=msgspec.to_builtins(self.history))
            trainer.save(self.work.checkpoint, about=about)
        self._observer.finished_epoch(report)

    def _evaluated(self, epoch: int, done: Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()):
            self._abort(error, f"epoch {epoch + 1}")

    def _abort(self, error: BaseException, where: str) -> None:
        """Tell the machine of an error in what it asked for; the user gets the error itself."""
        if isinstance(error, NexusError):
            reason = f"{where}: {error.message}"
            self.handle(ev.JobAborted(at=self.now(), reason=reason, hint=error.hint))
        else:
            self.machine.handle(ev.JobAborted(at=self.now(), reason=f"{where}: {error!r}"))
            self._end(error)

    def _finish_job(self, _: do.FinishJob) -> None:
        # The last evaluation is in the thread already: what is submitted now comes after it.
        future = self._thread.submit(lambda: None)
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._end, None))

    def _fail_job(self, fail: do.FailJob) -> None:
        self._end(SchedulerError(fail.message, hint=fail.hint))

    def _end(self, error: BaseException | None) -> None:
        if not self.outcome.done():
            if error:
                self.outcome.set_exception(error)
            else:
                self.outcome.set_result(None)
        for worker in list(self._polls):
            self._answer(worker, Finished())
