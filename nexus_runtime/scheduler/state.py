"""The state machine of a training job: events in, instructions out.

Nothing here reads a clock, a socket or a random number: the same events give the same instructions,
    so that a test is a list of events, a journal of events is a backup, and a simulator is a loop
    (the pattern of dask's worker_state_machine.py). The law that the tests check: of each shard of
    each round exactly one result counts, and only one that came under the shard's present lease.

A worker that is lost, or that lets a lease expire, gives its shards to the others. Its own late
result is then refused by the lease's number, whatever the order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nexus_runtime.errors import InternalError, SchedulerError
from nexus_runtime.scheduler import events as ev
from nexus_runtime.scheduler import instructions as do
from nexus_runtime.scheduler.leasing import LeaseBook
from nexus_runtime.scheduler.profile import fit
from nexus_runtime.scheduler.records import Phase, Round, Standing, Worker
from nexus_runtime.scheduler.replanning import Plans


class JobState:
    """One job. Mutated by `handle` alone; everything else is for looking."""

    def __init__(self) -> None:
        self.phase = Phase.GATHERING
        self.job = ev.JobSpec(samples=0, batch_size=1, epochs=0)
        self.workers: dict[str, Worker] = {}
        self.parameters = ""
        self._out: list[do.Instruction] = []
        self._book = LeaseBook(self._out)
        self._plans = Plans(self._out)
        self._next_round = 0
        self._started = False  # the first round was given out
        self._since = 0.0  # when the job last had reason to hope for workers
        self._trouble = SchedulerError("no worker came")
        self._now = 0.0
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.JobStarted: self._on_started,
            ev.WorkerRegistered: self._on_registered,
            ev.WorkerReady: self._on_ready,
            ev.LeasePolled: self._on_polled,
            ev.HeartbeatReceived: self._on_heartbeat,
            ev.ResultPushed: self._on_pushed,
            ev.RoundApplied: self._on_applied,
            ev.WorkerLeft: self._on_left,
            ev.JobAborted: self._on_aborted,
            ev.Ticked: self._on_ticked,
        }
        self._moves: dict[tuple[Standing, Standing], Callable[[Worker, str], None]] = {
            (Standing.JOINING, Standing.READY): self._admit,
            (Standing.AWAY, Standing.READY): self._admit,
            (Standing.READY, Standing.AWAY): self._suspend,
            (Standing.JOINING, Standing.LOST): self._give_up,
            (Standing.READY, Standing.LOST): self._give_up,
            (Standing.AWAY, Standing.LOST): self._give_up,
        }

    def handle(self, event: ev.Event) -> list[do.Instruction]:
        """Take an event in; return what is to be done, in order."""
        self._now = event.at
        self._out.clear()
        if self.phase not in {Phase.DONE, Phase.FAILED}:
            self._handlers[type(event)](event)
        elif isinstance(event, ev.ResultPushed):
            self._acknowledge(event, "the job is over")
        return list(self._out)

    @property
    def round(self) -> Round | None:
        """The round in flight."""
        return self._book.round

    # The job
    def _on_started(self, event: ev.JobStarted) -> None:
        self.job, self.parameters, self._since = event.job, event.parameters, event.at
        self._next_round = event.job.first_epoch * event.job.rounds_per_epoch
        if event.job.first_epoch >= event.job.epochs:
            self._finish()

    def _on_applied(self, event: ev.RoundApplied) -> None:
        current = self.round
        if current is None or self.phase != Phase.APPLYING or event.round != current.number:
            raise InternalError(f"round {event.round} was applied, but was not to be")
        self.parameters, self._book.round = event.parameters, None
        self._next_round = current.number + 1
        self.phase = Phase.GATHERING
        if self._next_round % self.job.rounds_per_epoch == 0:
            self._out.append(do.FinishEpoch(epoch=current.epoch))
            if current.epoch + 1 >= self.job.epochs:
                self._finish()
                return
        self._advance()

    def _on_aborted(self, event: ev.JobAborted) -> None:
        self._fail(event.reason, event.hint)

    def _finish(self) -> None:
        self.phase = Phase.DONE
        self._out.append(do.FinishJob())

    def _fail(self, message: str, hint: str) -> None:
        self.phase = Phase.FAILED
        self._out.append(do.FailJob(message=message, hint=hint))

    def _advance(self) -> None:
        """Go on if possible: give orphaned shards to somebody, or start the next round."""
        ready = [w for w in self.workers.values() if w.standing == Standing.READY]
        if self.phase == Phase.COMPUTING:
            self._book.give_orphans(ready, self.job, self._now)
        elif self.phase == Phase.GATHERING and ready and (self._started or self._assembled()):
            self._start_round(ready)

    def _assembled(self) -> bool:
        settled = [w for w in self.workers.values() if w.standing != Standing.JOINING]
        late = self._now - self._since >= self.job.timing.start_grace
        return late or len(settled) >= self.job.expected_workers

    def _start_round(self, ready: list[Worker]) -> None:
        begin = self._next_round % self.job.rounds_per_epoch * self.job.batch_size
        batch = min(self.job.batch_size, self.job.samples - begin)
        try:
            placement = self._plans.plan(ready, batch, self.job, self._next_round)
        except SchedulerError as error:  # perhaps another worker comes within the grace
            self._trouble = error
            return
        self.phase, self._started, self._since = Phase.COMPUTING, True, self._now
        self._book.open(
            self._next_round,
            self.job,
            parameters=self.parameters,
            placement=placement,
            workers=self.workers,
            now=self._now,
        )

    # Workers come and go
    def _on_registered(self, event: ev.WorkerRegistered) -> None:
        if (old := self.workers.get(event.worker)) and old.standing != Standing.LOST:
            self._move(old, Standing.LOST, "it registered again")
        self.workers[event.worker] = Worker(
            event.worker, event.session, event.pool, since=event.at, seen=event.at
        )
        self._advance()

    def _on_ready(self, event: ev.WorkerReady) -> None:
        worker = self._known(event.worker, event.session)
        if worker and worker.standing == Standing.JOINING:
            worker.cost, worker.limit = fit(event.profile), event.memory_limit
            self._move(worker, Standing.READY, "it joined")
            self._advance()

    def _on_polled(self, event: ev.LeasePolled) -> None:
        worker = self._known(event.worker, event.session)
        if not worker or worker.standing == Standing.JOINING:
            return
        worker.polling = True
        if worker.standing == Standing.AWAY:
            self._move(worker, Standing.READY, "it is back")
        self._book.hand_over(worker, self._now)
        self._advance()

    def _on_heartbeat(self, event: ev.HeartbeatReceived) -> None:
        self._known(event.worker, event.session)

    def _on_left(self, event: ev.WorkerLeft) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:  # it ended before it could register: it is not waited for
            worker = Worker(event.worker, 0, "", since=event.at, seen=event.at)
            self.workers[event.worker] = worker
        if event.session in {None, worker.session} and worker.standing != Standing.LOST:
            self._move(worker, Standing.LOST, event.reason)
            self._advance()

    def _known(self, name: str, session: int) -> Worker | None:
        """The worker, if this session of it is valid; otherwise it is told that it is not."""
        worker = self.workers.get(name)
        if worker and worker.session == session and worker.standing != Standing.LOST:
            worker.seen = self._now
            return worker
        reason = "the scheduler gave this session up"
        self._out.append(do.FenceWorker(worker=name, session=session, reason=reason))
        return None

    # Results
    def _on_pushed(self, event: ev.ResultPushed) -> None:
        worker, current = self._known(event.worker, event.session), self.round
        reason = self._book.refusal(event) if worker else "this session was given up"
        self._acknowledge(event, reason)
        if reason or worker is None or current is None:
            return
        self._book.count(event, worker, self._now)
        if current.complete:
            self._commit(current)

    def _acknowledge(self, event: ev.ResultPushed, reason: str) -> None:
        self._out.append(
            do.AcknowledgeResult(
                worker=event.worker,
                lease=event.lease,
                digest=event.digest,
                counted=not reason,
                reason=reason,
            )
        )

    def _commit(self, current: Round) -> None:
        self.phase = Phase.APPLYING
        self._out.append(
            do.CommitRound(
                round=current.number,
                epoch=current.epoch,
                step=current.number + 1,
                count=current.count,
                shards=tuple(
                    do.ShardResult(s.worker, s.lease.id, s.start, s.stop, s.digest)
                    for s in current.shards
                    if s.lease is not None
                ),
            )
        )
        self._plans.watch(current.count, self.workers, self.job)

    # Time
    def _on_ticked(self, event: ev.Ticked) -> None:
        for worker in list(self.workers.values()):
            if worker.standing != Standing.LOST:
                self._check(worker, self.job.timing)
        self._advance()
        self._give_up_hope()

    def _check(self, worker: Worker, timing: ev.Timing) -> None:
        """Has this worker been silent, or slow, for too long?"""
        if self._now - worker.seen > timing.patience:
            self._move(worker, Standing.LOST, f"it was silent for {timing.patience:g} s")
        elif worker.standing == Standing.JOINING:
            if self._now - worker.since > timing.start_grace:
                reason = f"it was not ready after {timing.start_grace:g} s"
                self._move(worker, Standing.LOST, reason)
        elif any(lease.deadline <= self._now for lease in worker.leases):
            worker.strikes += 1
            if worker.strikes >= timing.strikes:
                reason = f"{worker.strikes} of its leases in a row expired"
                self._move(worker, Standing.LOST, reason)
            else:
                self._move(worker, Standing.AWAY, "its lease expired")

    def _give_up_hope(self) -> None:
        """Fail when nobody has been there to go on with for longer than the grace."""
        standings = {worker.standing for worker in self.workers.values()}
        stuck = self.phase == Phase.GATHERING or (
            self.phase == Phase.COMPUTING and bool(self._book.orphans)
        )
        if not stuck or Standing.JOINING in standings:
            if self._started:
                self._since = self._now
            return
        timing = self.job.timing
        everybody_came = len(self.workers) >= self.job.expected_workers
        patience = timing.grace if self._started or everybody_came else timing.start_grace
        if self._now - self._since > patience:
            self._fail(self._trouble.message, self._trouble.hint)

    # A worker changes its standing
    def _move(self, worker: Worker, to: Standing, reason: str) -> None:
        move = self._moves.get((worker.standing, to))
        if move is None:
            raise InternalError(f"worker '{worker.name}' cannot go from {worker.standing} to {to}")
        worker.standing = to
        self._plans.change(f"{worker.name}: {reason}", self.workers.values())
        move(worker, reason)

    def _admit(self, worker: Worker, reason: str) -> None:
        """Nothing more to do: it has its share from the next plan on."""

    def _suspend(self, worker: Worker, reason: str) -> None:
        self._book.take_back(worker)
        if self.phase == Phase.COMPUTING:
            self._book.give_orphans(self.workers.values(), self.job, self._now)

    def _give_up(self, worker: Worker, reason: str) -> None:
        fence = do.FenceWorker(worker=worker.name, session=worker.session, reason=reason)
        self._out.append(fence)
        self._trouble = SchedulerError(
            f"no worker is left; the last was '{worker.name}': {reason}",
            hint="look at its log; workers may join a running job with `nexus-agent join`",
        )
        self._suspend(worker, reason)
