"""Log records on stderr: warnings always, our own stages with ``-v``, all that libraries say as well with ``-vv``."""

import logging
import sys

_PACKAGE = "internvl_edge"
_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment, so that records appear above bars that are being drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:  # stderr is closed or full: the work goes on
            self.handleError(record)


def configure_logging(verbosity: int) -> None:
    """Send log records to stderr: from 1 on also what our own stages do, from 2 on all that is told at INFO."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO if verbosity > 1 else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_PACKAGE).setLevel(logging.INFO if verbosity else logging.NOTSET)
