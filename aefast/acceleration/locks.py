"""Locks that a forked process finds free."""

import os
from typing import Protocol, TypeVar


class Lock(Protocol):
    """threading's locks, of either kind."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


AnyLock = TypeVar("AnyLock", bound=Lock)


def free_after_fork(lock: AnyLock) -> AnyLock:
    """The lock, held by the thread that forks while it does. Held by another one, which the child
    does not have, it would stay locked there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock
