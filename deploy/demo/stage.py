"""The stage of the demo: everything it starts, in order, and the promise that all of it ends.

    folder/  fleet/     the operator's side: CA, broker configuration, verifier's store
             gateway/   settings, policy, state/ and run/ of the gateway
             board/     the virtual sensor board's ptys
             apps/      a private tmpfs: the one filesystem that is enforced on
             log/       one file per process

Processes are stopped by their pid, last started first; the tmpfs is unmounted; the folder is
removed. ``check_clean`` says what is left, and the demo fails if anything is.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOP_LIMIT_S = 30.0
RUN_LIMIT_S = 300.0
WAIT_LIMIT_S = 120.0
"""Of something that takes seconds: only what hangs comes near them, on a slow machine, too."""
PYTHON = sys.executable
BIN = Path(PYTHON).parent
ROOT = Path(__file__).resolve().parents[2]


Json = dict[str, Any]
"""What a command printed; the demo reads only what surface.md publishes."""


class DemoError(Exception):
    """The demo cannot go on; the text says what was awaited and where its log is."""


class Stage:
    """Starts processes, remembers them, ends them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ew-demo-"))
        self.folder.chmod(0o755)
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._mounts: list[Path] = []
        self._ended: list[int] = []
        (self.folder / "log").mkdir()

    def start(self, name: str, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a process; its output goes to log/NAME."""
        with (self.folder / "log" / name).open("wb") as log:
            process = subprocess.Popen(
                [str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._running.append((name, process))
        return process

    def run(self, *command: str | Path) -> str:
        """Run a command to its end; return its standard output."""
        line = [str(c) for c in command]
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_LIMIT_S
        )
        if done.returncode != 0:
            raise DemoError(
                f"{' '.join(line)} ended with {done.returncode}: {done.stderr.decode()[-2000:]}"
            )
        return done.stdout.decode()

    def mount_private(self, path: Path) -> bool:
        """Mount a tmpfs of our own at path; False without the right to."""
        path.mkdir()
        if os.geteuid() != 0:
            return False
        self.run("mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "ew-demo", path)
        self._mounts.append(path)
        if path.stat().st_dev == Path("/").stat().st_dev:
            raise DemoError("the private filesystem is not private")
        return True

    def await_(self, what: str, ready: Callable[[], bool], limit_s: float = WAIT_LIMIT_S) -> None:
        """Poll until ready() or raise DemoError naming what was awaited. The last look begins when
        the time is over."""
        end = time.monotonic() + limit_s
        while True:
            last = time.monotonic() >= end
            if ready():
                return
            for name, process in self._running:
                if process.poll() is not None:
                    raise DemoError(
                        f"{name} ended ({process.returncode}) while waiting for {what}:\n"
                        + self.tail(name)
                    )
            if last:
                raise DemoError(f"no {what} within {limit_s:.0f} s\n{self.tails()}")
            time.sleep(0.1)

    def tail(self, name: str) -> str:
        """The end of a process's log."""
        return (self.folder / "log" / name).read_text(errors="replace")[-3000:]

    def tails(self) -> str:
        """The ends of all logs, for a failure that no one process explains."""
        return "\n".join(f"--- {name}\n{self.tail(name)[-1200:]}" for name, _ in self._running)

    def stop(self, name: str) -> None:
        """End one process by its pid: TERM, then KILL after STOP_LIMIT_S."""
        for entry in [e for e in self._running if e[0] == name]:
            self._end(entry[1])
            self._running.remove(entry)

    def close(self) -> None:
        """End everything, last started first."""
        while self._running:
            self._end(self._running.pop()[1])
        for path in reversed(self._mounts):
            self.run("umount", path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def check_clean(self) -> list[str]:
        """What is still there after close()."""
        left = [f"process {pid}" for pid in self._ended if Path(f"/proc/{pid}").exists()]
        mounts = Path("/proc/self/mounts").read_text()
        left += [f"mount {path}" for path in self._mounts if f" {path} " in mounts]
        return left

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._ended.append(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)


def free_ports(count: int) -> list[int]:
    """Free TCP ports on loopback, all different. Where there are others, none that the kernel gives
    to whoever asks for any: the last is bound seconds after it was chosen here."""
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    kernels = range(int(first), int(last) + 1)
    places = random.sample(range(10_000, 65_536), 55_536)
    found: list[int] = []
    for port in sorted(places, key=kernels.__contains__):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            found.append(port)
        if len(found) == count:
            return found
    raise DemoError("this machine has no free ports")


def listening(port: int) -> bool:
    """Does anybody accept on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def read_json(text: str) -> Json:
    """One JSON object."""
    body = json.loads(text)
    if not isinstance(body, dict):
        raise DemoError("not a JSON object")
    return body
