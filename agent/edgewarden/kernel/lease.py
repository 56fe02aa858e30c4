"""A read lease on an open file: proof that nobody can write to it at this moment.

F_SETLEASE F_RDLCK is refused (EAGAIN) while any writable descriptor *or mapping* of the file lives,
and while it is held the kernel makes whoever opens for writing wait and marks the lease as
breaking. That is the only notice of a second store through an old mapping: it moves neither mtime
nor ctime (measured on tmpfs, ext3, ext4).

    lease = ReadLease(fd)
    lease.take()
    digest = hash_of(fd)
    if lease.held(): ...             # nobody wrote in between
    lease.release()                  # or close(fd)

Call ``ignore_lease_breaks`` once before: the kernel tells a lease's holder by SIGIO, whose default
action kills.
"""

from __future__ import annotations

from fcntl import F_GETLEASE, F_RDLCK, F_SETLEASE, F_UNLCK, fcntl

from edgewarden.kernel.signals import SIG_IGN, SIGIO, signal


def ignore_lease_breaks() -> None:
    """Ignore SIGIO; the state of the lease is asked instead (F_GETLEASE)."""
    signal(SIGIO, SIG_IGN)


def lease_is_held(fd: int) -> bool:
    """Whether a read lease was taken on ``fd`` and nobody has asked to write since."""
    # While a lease is breaking, F_GETLEASE gives what it breaks to (fcntl(2)): F_UNLCK.
    return fcntl(fd, F_GETLEASE) == F_RDLCK


class ReadLease:
    """A read lease on ``fd``, at first not taken. Nothing here blocks or raises.

    Attributes:
        granted: it is ours. Whoever asks to write since waits, until ``release`` or the kernel's
            lease-break time (45 s).
        writer_lives: ``take`` was refused because somebody can write to the file now.
    """

    __slots__ = ("_fd", "granted", "writer_lives")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.granted = False
        self.writer_lives = False

    def take(self) -> None:
        """Try to take the lease; twice is harmless."""
        if self.granted:
            return
        try:
            fcntl(self._fd, F_SETLEASE, F_RDLCK)
            self.granted = True
        except BlockingIOError:
            self.writer_lives = True
        except OSError:
            # EINVAL, EACCES: this filesystem has no leases, or they are not ours to take.
            self.granted = False

    def held(self) -> bool:
        """Whether the lease was granted and nobody has asked to write since."""
        return self.granted and lease_is_held(self._fd)

    def release(self) -> None:
        """Let writers go on; twice is harmless."""
        if self.granted:
            self.granted = False
            fcntl(self._fd, F_SETLEASE, F_UNLCK)
