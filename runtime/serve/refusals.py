"""The reasons why a request gets no answer: one sentence for the client, with the status codes of HTTP and gRPC.

RefusalError
├── BadRequestError         400 INVALID_ARGUMENT    the request is malformed, or does not fit the model
├── UnauthorizedError       401 UNAUTHENTICATED     the API key is missing or not known
├── UnknownModelError       404 NOT_FOUND           there is no such model or version
├── TooLargeError           413 INVALID_ARGUMENT    a body, picture or text exceeds the limits
├── OverloadedError         429 RESOURCE_EXHAUSTED  the queue is full
├── UnavailableError        503 UNAVAILABLE         the server starts, restarts a worker or drains
├── DeadlineExceededError   504 DEADLINE_EXCEEDED   the answer would come too late
└── FailedError             500 INTERNAL            the model fails on a valid request
"""

from typing import ClassVar

RETRY_S = 1.0
"""Seconds after which a client should retry while the server starts, restarts a worker, drains or lacks memory."""

CONTEXT_CODE = "context_length_exceeded"
"""OpenAI's word for a request for which the model's context has no room."""


class RefusalError(Exception):
    """A request gets no answer; `str(refusal)` is one sentence for the client, without paths of the server."""

    http: ClassVar[int]
    """HTTP status code."""
    grpc: ClassVar[str]
    """Name of the member of `grpc.StatusCode`."""
    retry_after_s: float | None = None
    """Seconds after which a retry may succeed; None: the same request would be refused again."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """Field of the request that is at fault, as OpenAI's errors name it; None: none, or several."""
        self.code = code
        """Word for programs, as OpenAI's errors have it."""


class BadRequestError(RefusalError):
    """The request is malformed, or does not fit the model."""

    http, grpc = 400, "INVALID_ARGUMENT"


class UnauthorizedError(RefusalError):
    """The request lacks an API key that the server knows."""

    http, grpc = 401, "UNAUTHENTICATED"


class UnknownModelError(RefusalError):
    """The model or version is not served."""

    http, grpc = 404, "NOT_FOUND"


class TooLargeError(RefusalError):
    """A body, picture or text exceeds the limits."""

    http, grpc = 413, "INVALID_ARGUMENT"


class OverloadedError(RefusalError):
    """The queue is full."""

    http, grpc = 429, "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(RefusalError):
    """No worker takes requests now: the server starts, restarts a worker or drains."""

    http, grpc = 503, "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(RefusalError):
    """The answer would come too late; its work was not begun, or was stopped."""

    http, grpc = 504, "DEADLINE_EXCEEDED"


class FailedError(RefusalError):
    """The model fails on a request that fits its signature."""

    http, grpc = 500, "INTERNAL"
