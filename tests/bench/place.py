"""Where the bench happens: a temporary folder, tmpfs mounts, processes, the private interpreter.

Everything an area starts or mounts goes through here, so that everything ends: processes by their
pid, mounts by their path, last first, also when an area fails half-way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from tests.bench import private

STOP_S = 8.0
ROOT = Path(__file__).resolve().parents[2]


class CannotMeasure(Exception):
    """This machine lacks something, or something did not come up: becomes the row's reason."""


class Place:
    """A context manager; see the module."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="ew-bench-"))
        self.folder.chmod(0o755)  # link drops to another user and must still see its files
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def interpreter(self) -> private.Interpreter:
        """The private interpreter, made when it is first asked for."""
        return private.build(self.folder / "interpreter")

    def start(
        self, *command: str | Path, name: str, env: dict[str, str] | None = None, **more: object
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends with this place; its output goes to log/NAME."""
        logs = self.folder / "log"
        logs.mkdir(exist_ok=True)
        with (logs / name).open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=private.environment(None) if env is None else env, **more,  # type: ignore[call-overload]
            )  # fmt: skip
        self._stack.callback(stop, process)
        return process

    def ends(self, work: Callable[[], object]) -> None:
        """Call this when the place ends, before what came earlier."""
        self._stack.callback(work)

    def log(self, name: str) -> str:
        """The end of what a process has said."""
        return (self.folder / "log" / name).read_text(errors="replace")[-1500:]

    def mount_tmpfs(self, name: str) -> Path:
        """A private tmpfs of our own: exec marks go nowhere else."""
        return self._mount(name, "-t", "tmpfs", "-o", "size=64m,mode=755", "ew-bench")

    def mount_ext4(self, name: str) -> Path:
        """A private ext4 in a loop-mounted file, for what a tmpfs does not have (ctime)."""
        image = self.folder / f"{name}.image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        # Lazily, the kernel would go on making it while somebody counts what is written.
        # Blocks as on a card, whatever the size: mkfs gives small ones 1 kB.
        options = ["-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run(
            ["mkfs.ext4", "-qF", *options, str(image)], check=True, stdin=subprocess.DEVNULL
        )
        return self._mount(name, "-t", "ext4", "-o", "loop,noatime", str(image))

    def mount_ext2(self, name: str) -> Path:
        """As ``mount_ext4``; of a type that nothing else here has."""
        image = self.folder / f"{name}.image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(
            ["mkfs.ext2", "-qF", "-m", "0", str(image)], check=True, stdin=subprocess.DEVNULL
        )
        return self._mount(name, "-t", "ext2", "-o", "loop,noatime", str(image))

    def _mount(self, name: str, *how: str) -> Path:
        if os.geteuid() != 0:
            raise CannotMeasure("not root, so no filesystem of our own")
        path = self.folder / name
        path.mkdir()
        done = subprocess.run(
            ["mount", *how, str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise CannotMeasure(f"no filesystem of our own: {done.stderr.strip()}")
        self._stack.callback(unmount, path)
        if path.stat().st_dev in {Path(p).stat().st_dev for p in ("/", "/tmp", self.folder)}:
            raise CannotMeasure(f"{path} is not a filesystem of its own")
        return path


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process by its pid: TERM, then KILL after STOP_S."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def unmount(path: Path) -> None:
    """Unmount, waiting for whoever was just stopped there to be gone."""
    for _ in range(40):
        if subprocess.run(["umount", str(path)], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def await_(what: str, ready: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> None:
    """Poll until ready(); raise CannotMeasure after limit_s."""
    end_mono = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > end_mono:
            raise CannotMeasure(f"no {what} within {limit_s:.0f} s")
        time.sleep(step_s)
