"""numpy's and scipy's matrix algebra on one thread."""

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import cache

from threadpoolctl import ThreadpoolController

# Of a larger matrix, two threads take less time.
LARGEST = 1000

_lock = threading.RLock()  # a signal's handler may come while its own thread holds it
_limits = contextlib.ExitStack()
_users: set[object] = set()


def one_thread_if_small(size: int) -> contextlib.AbstractContextManager[None]:
    """One thread for the eigenvalues of a matrix with so many rows, if they take less time so."""
    return one_thread() if size <= LARGEST else contextlib.nullcontext()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy and scipy compute on one thread each, in the whole process, until all who asked for
    it are done.

    Each has a pool of its own, whose threads wait for work, busily, for some 100 ms after a
    product. What takes many small steps, such as an eigenvalue, is slower on two threads that share
    the cores with these than on one.

    A limit that another library sets in another thread meanwhile is the process's, too. If it ends
    after this one, it gives back the number of threads that it found, which is one.
    """
    libraries, user = _libraries(), object()
    try:
        with _lock:
            if not _users:
                _limits.enter_context(libraries.limit(limits=1, user_api="blas"))
            _users.add(user)
        yield
    finally:
        with _lock:
            _users.discard(user)
            if not _users:
                _limits.close()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _unlock_after_fork() -> None:
    """Another thread may have held the lock, which does not run in the child."""
    global _lock
    _lock = threading.RLock()
    _users.clear()
    _limits.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
