"""Supervision of one worker process: it is started, given jobs, killed when it hangs, and restarted when it ends."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from internvl_edge.runtime.serve.options import ServeOptions
from internvl_edge.runtime.serve.scheduling.scheduler import Load
from internvl_edge.runtime.serve.scheduling.ticket import Batch
from internvl_edge.runtime.serve.workers.messages import Cancel, Job, Opened, OpenFailed
from internvl_edge.runtime.serve.workers.process import Launch, Link

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.0, 0.2, 1.0, 5.0, 15.0)
"""Seconds to wait before a restart, by the number of processes in a row that answered no job; then always the last."""


class Owner(Protocol):
    """The receiver of a worker's events: the engine that gives it jobs."""

    def worker_up(self, worker: "Worker") -> None:
        """Note that the worker takes jobs now."""
        ...

    def worker_down(self, worker: "Worker", held: list[Batch]) -> None:
        """Note that the worker has ended, and take back the batches that it held."""
        ...

    def worker_message(self, worker: "Worker", message: Any) -> None:
        """Handle a message about a job."""
        ...


class Worker:
    """The supervisor of one worker, which has one process at a time."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        owner: Owner,
        options: ServeOptions,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.up = False
        """Whether it takes jobs."""
        self.failures = 0
        """Number of processes in a row that answered no job."""
        self.failure = ""
        """Reason why the last of them ended."""
        self.jobs: dict[int, Batch] = {}
        """Number of each job that it holds -> its batch, oldest first."""
        self.link: Link | None = None
        self._idle_since = -math.inf
        """Time at which the last batch came back."""
        self._given: dict[int, float] = {}
        """Job -> time at which it was sent."""
        self._heard = -math.inf
        """Time of the last message, or of the first job after it had none."""
        self._watch: asyncio.TimerHandle | None = None
        """Timer of the next check for a hung process; None without work."""
        self._launch = launch
        self._owner = owner
        self._options = options
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    @property
    def load(self) -> Load:
        """Return a summary of the jobs that it holds."""
        streams = sum(batch.key.stream for batch in self.jobs.values())
        return Load(
            batches=len(self.jobs) - streams,
            streams=streams,
            retrying=any(part.ticket.crashes for batch in self.jobs.values() for part in batch.slices),
            idle_since=self._idle_since,
        )

    def start(self) -> None:
        """Start the process and its supervision."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End the process and its supervision."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._watch is not None:
            self._watch.cancel()
        if self.link is not None:
            await self.link.close()

    def give(self, job: Job, batch: Batch, now: float) -> None:
        """Send it a job."""
        assert self.link is not None
        if not self.jobs:
            self._heard = now
        self.jobs[job.id] = batch
        self._given[job.id] = now
        self.link.send(job)
        if self._watch is None:
            self._look(now)

    def cancel(self, job: int) -> None:
        """Cancel a job; the worker still reports when the job is done."""
        assert self.link is not None
        self.link.send(Cancel(job))

    def finish(self, job: int, now: float) -> tuple[Batch, float]:
        """Remove a job that is done; return its batch and its own seconds, without the wait for the job before it."""
        batch, given = self.jobs.pop(job), self._given.pop(job)
        seconds = now - max(given, self._idle_since)
        self.failures, self._idle_since = 0, now
        return batch, seconds

    async def _run(self) -> None:
        while True:
            self.failures += 1  # until it answers
            self.failure = ""
            try:
                self.link = await self._launch(self._received)
                how = await self._life(self.link)
            except OSError as error:
                how = f"could not be started ({error.strerror})"
            self.failure = self.failure or how
            logger.error("%s: %s; it is started again", self.name, self.failure)
            held, self.jobs, self._given, self.up = list(self.jobs.values()), {}, {}, False
            self._owner.worker_down(self, held)
            await self._sleep(_BACKOFF_S[min(self.failures, len(_BACKOFF_S) - 1)])

    async def _life(self, link: Link) -> str:
        """Wait until a process ends, kill it if it does not open its graphs in time, and return how it ended."""
        slow = asyncio.get_running_loop().call_later(self._options.startup_s, self._too_slow, link)
        try:
            return await link.ended()
        finally:
            slow.cancel()

    def _too_slow(self, link: Link) -> None:
        if not self.up:
            self._kill(link, f"opened nothing within {self._options.startup_s:g} s")

    def _look(self, now: float) -> None:
        """Kill a process that hangs; otherwise set a timer for the next check, as long as it has work."""
        self._watch = None
        if not self.jobs or self.link is None:
            return
        left = self._heard + self._options.stall_s - now
        if left <= 0:
            self._kill(self.link, f"had work and said nothing for {self._options.stall_s:g} s")
        else:
            self._watch = asyncio.get_running_loop().call_later(left, lambda: self._look(time.monotonic()))

    def _kill(self, link: Link, why: str) -> None:
        self.failure = why
        link.kill()

    def _received(self, message: Any) -> None:
        self._heard = time.monotonic()
        if isinstance(message, Opened):
            self.up = True
            self._owner.worker_up(self)
        elif isinstance(message, OpenFailed):
            self.failure = message.reason
        else:
            self._owner.worker_message(self, message)
