"""The interface between the protocols and the engine with its batches, workers and models."""

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Protocol

from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.signature import Signature


class Engine(Protocol):
    """An engine that answers requests on one event loop."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Return the signature of each served model, by its name."""
        ...

    @property
    def ready(self) -> bool:
        """Return whether a worker takes requests now: False while all of them start or restart, and while draining."""
        ...

    def require_room(self, model: str, client: str, coming: Mapping[str, int] = MappingProxyType({})) -> bool:
        """Check that the queue has room for a request of this client, before any work is done for it.

        Args:
            model: Name of the model that the request asks.
            client: Name of the client that sends it.
            coming: Number of admitted requests of each client that will be queued before this one.

        Returns:
            Whether the request needs a place in the queue; False where the cache may hold its answer.

        Raises:
            OverloadedError: The queue is full.
        """
        ...

    async def infer(self, request: Request) -> Response:
        """Answer a request; cancelling the caller withdraws it from the queue.

        Raises:
            RefusalError: The request gets no answer, for the reason that the error gives.
        """
        ...

    def stream(self, request: Request) -> AsyncIterator[Response]:
        """Yield the answer in parts; closing the iterator stops the work.

        Raises:
            RefusalError: There is no answer, or no further part, for the reason that the error gives.
        """
        ...
