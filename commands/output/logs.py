"""Log records on stderr: warnings always, the stages of this package with ``-v``, those of libraries with ``-vv``."""

import logging
import sys

_PACKAGE = "internvl_edge"
_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _Stderr(logging.Handler):
    """Handler that writes to the current `sys.stderr`, so that records appear above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:  # stderr is closed or full: the work goes on
            self.handleError(record)


def configure_logging(verbosity: int) -> None:
    """Send log records to stderr: warnings, from 1 on also INFO of this package, from 2 on INFO of all libraries."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO if verbosity > 1 else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_PACKAGE).setLevel(logging.INFO if verbosity else logging.NOTSET)
