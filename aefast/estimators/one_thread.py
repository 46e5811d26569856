"""numpy's and scipy's matrix algebra on one thread."""

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import cache

from threadpoolctl import ThreadpoolController

# Of a larger matrix, two threads take less time.
LARGEST = 1000

_lock = threading.Lock()
_limits = contextlib.ExitStack()
_users = 0


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
    """
    global _users
    with _lock:
        if _users == 0:
            _limits.enter_context(_libraries().limit(limits=1, user_api="blas"))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.close()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _unlock_after_fork() -> None:
    """Another thread may have held the lock, which does not run in the child."""
    global _lock, _users
    _lock, _users = threading.Lock(), 0
    _limits.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
