"""Run Python work on several cores in forked processes, so that torch is imported only once."""

import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import TracebackType

import torch

from internvl_edge.runtime.errors import EdgeError, ExportError
from internvl_edge.runtime.progress import Advance

Work = Callable[[str, Advance], None]
"""Function that does the work of one name, writes files, and reports progress, in parts that add up to 1."""

_MOST = 4
"""Most processes at the same time; each has a traced graph in memory besides the pages that it shares."""
_PR_SET_PDEATHSIG = 1
"""Option of prctl: the signal that this process gets when its parent dies."""


class Forked:
    """Pool of processes that runs `work` for each of `names` in a ``with`` block; leaving the block ends them.

    The processes are forked at the start of the block. No other threads should run then, because a lock that a thread
    holds at that moment is never released in a child. The last names are processed first. On a single core, where fork
    is not safe (macOS), or in a daemonic process, which may have no children, the work is done in this process.
    """

    def __init__(self, work: Work, names: Sequence[str]) -> None:
        self._work = work
        self._waiting = list(names)
        self._processes = min(len(names), _MOST, _cores())
        self._doing: dict[Connection, str] = {}
        self._children: list[multiprocessing.context.ForkProcess] = []

    def __enter__(self) -> "Forked":
        """Start the processes."""
        if self._processes > 1 and sys.platform == "linux" and not multiprocessing.current_process().daemon:
            for _ in range(self._processes):
                self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the processes."""
        for child in self._children:
            child.kill()
            child.join()
        for pipe in self._doing:
            pipe.close()
        self._doing.clear()

    def done(self, advance: Advance) -> Iterator[str]:
        """Yield each name when its work is done, and report progress to `advance`.

        Raises:
            EdgeError: the work raised it.
            ExportError: a process died.
        """
        if not self._children:
            for name in self._waiting:
                self._work(name, advance)
                yield name
        while self._doing:
            for pipe in wait(list(self._doing)):
                assert isinstance(pipe, Connection)
                name = self._doing[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionResetError):  # reset: it died before it read its next name
                    raise ExportError(
                        f"{name}: the process that worked on it died; free memory, or see the kernel's log"
                    ) from None
                if isinstance(message, _Failure):
                    message.throw()
                if message is not None:
                    advance(message)
                    continue
                self._go_on(pipe)
                yield name

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        child = context.Process(target=_serve, args=(there, here, self._work), daemon=True)
        with _forking_beside_threads():
            child.start()
        there.close()
        self._children.append(child)
        self._go_on(here)

    def _go_on(self, pipe: Connection) -> None:
        """Send the next name to the process at `pipe`, or close the pipe, which ends the process."""
        if self._waiting:
            self._doing[pipe] = self._waiting.pop()
            pipe.send(self._doing[pipe])
        else:
            del self._doing[pipe]
            pipe.close()


class _Failure:
    """Exception of a process, with its traceback as text."""

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException = error
        self._where = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # errors of libraries may fail to pickle; their text is kept
            self._error = RuntimeError(repr(error))

    def throw(self) -> None:
        """Raise the exception in this process; errors that are not for users show the other process's traceback."""
        if isinstance(self._error, EdgeError | OSError):
            raise self._error
        raise self._error from RuntimeError(f"in another process:\n{self._where}")


def _serve(pipe: Connection, other_end: Connection, work: Work) -> None:
    """Run `work` for every name received from `pipe`, and send progress, then None."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which kills this process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)  # OpenMP's threads do not exist after a fork
    gc.freeze()  # objects of the parent stay; collecting them would take a tenth of the time
    try:
        while True:
            try:
                name = pipe.recv()
            except EOFError:
                return
            work(name, pipe.send)
            pipe.send(None)
    except BaseException as error:
        pipe.send(_Failure(error))


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _forking_beside_threads() -> Iterator[None]:
    """Silence the warning of Python 3.12 at a fork with threads; OpenMP's threads are idle and hold no lock."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
