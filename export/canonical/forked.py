"""Do work of Python on several cores: in forked processes, for which torch is imported once."""

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
"""Does the work of one name and tells how much of it is done, 1 in all; what it makes are files."""

_MOST = 4
"""Processes at one time: each holds a traced graph beside what it shares with the first."""
_PR_SET_PDEATHSIG = 1
"""prctl: the signal that this process gets when the one that started it dies."""


class Forked:
    """Does `work` for each of `names`, several at a time where the machine has the cores; leaving the block ends it.

    The processes are forked when the block begins, which should be before other threads are: a lock that a thread holds
    at that moment is never freed in a child. They begin with the last names. Where nothing can run at the same time, or
    a fork is not safe (macOS), the work is done here.
    """

    def __init__(self, work: Work, names: Sequence[str]) -> None:
        self._work = work
        self._waiting = list(names)
        self._processes = min(len(names), _MOST, _cores())
        self._doing: dict[Connection, str] = {}
        self._children: list[multiprocessing.context.ForkProcess] = []

    def __enter__(self) -> "Forked":
        """Start the processes."""
        if self._processes > 1 and sys.platform == "linux":
            for _ in range(self._processes):
                self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes, whatever they are doing."""
        for child in self._children:
            child.kill()
            child.join()
        for pipe in self._doing:
            pipe.close()
        self._doing.clear()

    def done(self, advance: Advance) -> Iterator[str]:
        """Yield each name when its work is done; `advance` is told the parts.

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
                    told = pipe.recv()
                except EOFError:
                    raise ExportError(
                        f"{name}: the process that worked on it died; free memory, or see the kernel's log"
                    ) from None
                if isinstance(told, _Failure):
                    told.throw()
                if told is not None:
                    advance(told)
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
        """Give the process behind `pipe` its next name, or let it end."""
        if self._waiting:
            self._doing[pipe] = self._waiting.pop()
            pipe.send(self._doing[pipe])
        else:
            del self._doing[pipe]
            pipe.close()


class _Failure:
    """What a process raised, and where."""

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException = error
        self._where = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # the error of a library may refuse in any way; its text says the same
            self._error = RuntimeError(repr(error))

    def throw(self) -> None:
        """Raise it here; what is no finding for the user is raised with the traceback of the process."""
        if isinstance(self._error, EdgeError | OSError):
            raise self._error
        raise self._error from RuntimeError(f"in another process:\n{self._where}")


def _serve(pipe: Connection, other_end: Connection, work: Work) -> None:
    """Do the work of every name that comes through `pipe`."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process too, which ends this one
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)  # a fork has none of the threads that OpenMP believes to have
    gc.freeze()  # what the first process made stays: looking through it takes a tenth of the time
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
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _forking_beside_threads() -> Iterator[None]:
    """Silence the warning of Python 3.12 at a fork beside threads: those of OpenMP wait for work and hold no lock."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
