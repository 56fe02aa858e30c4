"""The interpreter's own signal functions, without the package ``signal`` around them.

``signal`` wraps ``_signal`` to turn numbers into enum members, and enum costs gate and guard 0.9 MB
each of about 6 (PSS, measured). In link its ``signal`` puts the handler that was there before into
words, to see that it is no member: asyncio's own names a task, whose words want inspect, ast and
dis (0.7 MB). Type checkers see the public module; the names are the same in both.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import (
        ITIMER_REAL,
        SIG_IGN,
        SIGALRM,
        SIGCONT,
        SIGHUP,
        SIGINT,
        SIGIO,
        SIGKILL,
        SIGSTOP,
        SIGTERM,
        alarm,
        pidfd_send_signal,
        set_wakeup_fd,
        setitimer,
        signal,
    )  # fmt: skip
else:
    from _signal import (
        ITIMER_REAL,
        SIG_IGN,
        SIGALRM,
        SIGCONT,
        SIGHUP,
        SIGINT,
        SIGIO,
        SIGKILL,
        SIGSTOP,
        SIGTERM,
        alarm,
        pidfd_send_signal,
        set_wakeup_fd,
        setitimer,
        signal,
    )  # fmt: skip

__all__ = [
    "ITIMER_REAL", "SIGALRM", "SIGCONT", "SIGHUP", "SIGINT", "SIGIO", "SIGKILL", "SIGSTOP",
    "SIGTERM", "SIG_IGN", "alarm", "pidfd_send_signal", "set_wakeup_fd", "setitimer", "signal",
]  # fmt: skip
