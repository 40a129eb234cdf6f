"""Requests under way: the results that have come back for each, and the future of its answer."""

import asyncio
import time
from collections.abc import Mapping

import numpy as np

from internvl_edge.runtime.serve.models import ServedModel
from internvl_edge.runtime.serve.refusals import FailedError, RefusalError
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.scheduling.ticket import Slice, Ticket

Arrays = Mapping[str, np.ndarray]


class Work:
    """A request whose rows may be computed in different batches."""

    def __init__(self, request: Request, served: ServedModel) -> None:
        self.request = request
        self.served = served
        self.rows = served.rows(request)
        self.tickets: list[Ticket] = []
        """Tickets of its rows in the queue; more than one after a worker was lost."""
        self.closed = False
        """Whether the caller has left."""
        self.late: asyncio.TimerHandle | None = None
        """Timer that fails the request at its deadline."""
        self.first_at: float | None = None
        """Time on the clock of `time.monotonic` at which the first piece of text came."""
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._outputs: dict[int, Arrays] = {}
        """First row of a part -> outputs of the part."""
        self._missing = self.rows

    @property
    def complete(self) -> bool:
        """Return whether the results of all rows have come back."""
        return not self._missing

    def take(self, part: Slice, outputs: Arrays) -> None:
        """Add the outputs of some rows; with the last of them, set the answer."""
        self._outputs[part.start] = outputs
        self._missing -= part.stop - part.start
        if not self._missing and not self.answer.done():
            self.answer.set_result(Response(outputs=self._joined(), first_at=self.first_at))

    def fail(self, refusal: RefusalError) -> None:
        """Set the reason why there is no answer; the first reason is kept."""
        if not (self.answer.done() or self.closed):
            self.answer.set_exception(refusal)

    def close(self) -> None:
        """Note that the caller has left."""
        self.closed = True
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # asyncio would log an exception that was never retrieved

    def piece(self, part: Slice, row: int, text: str) -> None:
        """Note that there is text of a row; only a streamed request gives it before the rest."""
        self.first_at = self.first_at or time.monotonic()

    def lost(self, part: Slice) -> None:
        """Note that some rows are computed again from their start."""

    def _joined(self) -> Arrays:
        parts = [self._outputs[start] for start in sorted(self._outputs)]
        asked = self.request.outputs
        given = [tensor.name for tensor in self.served.signature.outputs if tensor.name in parts[0]]
        names = [name for name in given if asked is None or name in asked]
        if len(parts) == 1:
            return {name: parts[0][name] for name in names}
        return {name: np.concatenate([part[name] for part in parts]) for name in names}


class StreamedWork(Work):
    """A request whose texts are streamed; when a row is computed again, the repeated text is not sent twice."""

    def __init__(self, request: Request, served: ServedModel) -> None:
        super().__init__(request, served)
        self.begun = False
        """Whether a piece has come: from then on the deadline no longer applies."""
        self._given = [""] * self.rows
        self._written = [""] * self.rows
        self._changed = asyncio.Event()

    def take(self, part: Slice, outputs: Arrays) -> None:
        """Note that the texts of some rows are complete."""
        super().take(part, {**outputs, "text": np.array([b""] * (part.stop - part.start), np.object_)})
        self._changed.set()

    def fail(self, refusal: RefusalError) -> None:
        """Set the reason why no further text comes."""
        super().fail(refusal)
        self._changed.set()

    def piece(self, part: Slice, row: int, text: str) -> None:
        """Add text to a row."""
        super().piece(part, row, text)
        self.begun = True
        index = part.start + row
        self._written[index] += text
        shorter = min(len(self._written[index]), len(self._given[index]))
        if self._written[index][:shorter] != self._given[index][:shorter]:
            self.fail(FailedError(f"{self.request.model}: a worker was lost, and the answer can't be taken up again"))
        self._changed.set()

    def lost(self, part: Slice) -> None:
        """Note that some rows are computed again from their start."""
        for index in range(part.start, part.stop):
            self._written[index] = ""

    async def next(self) -> Response:
        """Wait for more text and return it; after a final part, `answer` holds a result or the error."""
        await self._changed.wait()
        self._changed.clear()
        answered = self.answer.done() and self.answer.exception() is None
        rest = self.answer.result().outputs if answered else {}
        new = np.array([self._new(row) for row in range(self.rows)], np.object_)
        return Response(outputs={**rest, "text": new}, final=self.answer.done(), first_at=self.first_at)

    def _new(self, row: int) -> bytes:
        """Return the text of a row that was not returned before."""
        given, written = self._given[row], self._written[row]
        if len(written) <= len(given):
            return b""
        self._given[row] = written
        return written[len(given) :].encode()
