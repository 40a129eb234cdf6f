"""Every error that a user can correct. Each message is one line: thing, finding, remedy.

EdgeError
├── CheckpointError    a checkpoint that cannot be read or does not account for every weight
├── ExportError        a graph that cannot be traced, rewritten or stored
│   ├── VerificationError   a graph that does not compute what the torch module computes
│   └── EngineError         a plan that TensorRT refuses to build
├── CalibrationError   ranges that cannot be measured
├── BundleError        a bundle that is absent, tampered with or of another version
├── BackendError       an inference library that is missing or does not run a graph
└── InputError         a picture, text or option that no graph can take
    ├── TooLongError            a prompt for which the context of a bundle has no room
    └── UnreadableError         a picture that cannot be decoded
        └── TooManyPixelsError  a picture beyond the limit
"""


class EdgeError(Exception):
    """A finding that the user can act on; `str(error)` is one line: thing, finding, remedy."""


class CheckpointError(EdgeError):
    """A checkpoint that cannot be read, or whose tensors do not add up."""


class ExportError(EdgeError):
    """A graph that cannot be traced, rewritten or stored."""


class VerificationError(ExportError):
    """A graph whose outputs differ from the torch module's by more than the tolerance."""


class EngineError(ExportError):
    """A plan that TensorRT refuses to build."""


class CalibrationError(EdgeError):
    """Ranges that cannot be measured on the data at hand."""


class BundleError(EdgeError):
    """A bundle that is absent, tampered with, or written by another version."""


class BackendError(EdgeError):
    """An inference library that is missing or does not run a graph."""


class InputError(EdgeError):
    """A picture, text or option that no graph can take."""


class TooLongError(InputError):
    """A prompt for which a bundle's context has no room."""


class UnreadableError(InputError):
    """A picture that cannot be used. The message gives the reason in this project's words, without a path."""


class TooManyPixelsError(UnreadableError):
    """A picture with more pixels than the limit."""


def one_line(message: object) -> str:
    """Return the whole text of an exception, or of a library's message, on one line."""
    return " ".join(str(message).split())


def first_line(error: BaseException) -> str:
    """Return the first line of a library's exception, or the name of its type where its message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__
