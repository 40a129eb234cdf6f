"""Why a request is not answered, in one sentence that a client may see, with the codes of HTTP and gRPC.

RefusalError
├── BadRequestError         400 INVALID_ARGUMENT    no request of this shape can be answered
├── UnauthorizedError       401 UNAUTHENTICATED     no API key, or another
├── UnknownModelError       404 NOT_FOUND           there is no such model or version
├── TooLargeError           413 INVALID_ARGUMENT    a body, picture or text beyond the limits
├── OverloadedError         429 RESOURCE_EXHAUSTED  the queue is full
├── UnavailableError        503 UNAVAILABLE         the server starts, restarts a worker or drains
├── DeadlineExceededError   504 DEADLINE_EXCEEDED   the answer would come too late
└── FailedError             500 INTERNAL            the model fails on what it should take
"""

from typing import ClassVar


class RefusalError(Exception):
    """A request that gets no answer; `str(refusal)` is one sentence without paths."""

    http: ClassVar[int]
    grpc: ClassVar[str]
    """Name of the member of `grpc.StatusCode`."""
    retry_after_s: float | None = None
    """When to try again; None: it would be refused again."""


class BadRequestError(RefusalError):
    """A request that can't be answered as it is."""

    http, grpc = 400, "INVALID_ARGUMENT"


class UnauthorizedError(RefusalError):
    """A request without the key that the server wants."""

    http, grpc = 401, "UNAUTHENTICATED"


class UnknownModelError(RefusalError):
    """A model or version that is not served."""

    http, grpc = 404, "NOT_FOUND"


class TooLargeError(RefusalError):
    """A body, picture or text beyond the limits."""

    http, grpc = 413, "INVALID_ARGUMENT"


class OverloadedError(RefusalError):
    """The queue is full."""

    http, grpc = 429, "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(RefusalError):
    """Nobody answers now: starting, restarting or draining."""

    http, grpc = 503, "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(RefusalError):
    """The answer would come too late; the work was not begun, or is given up."""

    http, grpc = 504, "DEADLINE_EXCEEDED"


class FailedError(RefusalError):
    """The model fails on what its signature allows."""

    http, grpc = 500, "INTERNAL"
