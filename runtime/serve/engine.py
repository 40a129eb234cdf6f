"""What protocols ask: the one border between them and batches, workers and models."""

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Protocol

from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.signature import Signature


class Engine(Protocol):
    """Answers requests on one event loop."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Return the models by name."""
        ...

    @property
    def ready(self) -> bool:
        """Return whether a request would be taken up at once; false while it starts, restarts a worker or drains."""
        ...

    def require_room(self, model: str, client: str, coming: Mapping[str, int] = MappingProxyType({})) -> bool:
        """Check that a request of this client might be queued, before anything is done for it.

        Returns whether it would be: the answer to some may be known.

        Clients have requests besides that are `coming`: they will be queued before this one.

        Raises:
            OverloadedError: there is no room for any.
        """
        ...

    async def infer(self, request: Request) -> Response:
        """Answer a request; a caller that is cancelled withdraws it.

        Raises:
            RefusalError: why there is no answer.
        """
        ...

    def stream(self, request: Request) -> AsyncIterator[Response]:
        """Answer in parts; closing the iterator stops the work.

        Raises:
            RefusalError: why there is no answer, or no more of it.
        """
        ...
