"""R4: a filesystem whose server never answers stalls nobody's exec but that of who waits for it.

The server is a descriptor of /dev/fuse that nobody reads: what a network filesystem looks like when
its network is gone. It is mounted where gate sees it, and processes hang on it. Or it is a small
one that serves a shell and then no more questions about it: the shell goes on, and asks gate.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.steps import slack_s
from tests.system.exec_world import loop_ext4, world
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.needs("root", "fanotify-permission", "loop-mount", "fuse"),
]

ANSWER_S = 1.0
SERVER = """
import ctypes, os, signal, sys
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if ctypes.CDLL(None, use_errno=True).mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options):
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
print("mounted", flush=True)
signal.pause()
"""
"""The descriptor ends with the process, and everybody who waits for it goes on with ENOTCONN."""


@contextlib.contextmanager
def hung() -> Iterator[Path]:
    """A mount point, with three processes that wait there until the server is gone."""
    with tempfile.TemporaryDirectory(prefix="ew-hung-") as where:
        server = subprocess.Popen([sys.executable, "-c", SERVER, where], stdout=subprocess.PIPE)
        stuck: list[subprocess.Popen[bytes]] = []
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"mounted\n"
            stuck += [
                subprocess.Popen(["cat", f"{where}/file"], stderr=subprocess.DEVNULL)
                for _ in range(3)
            ]
            wait_until(lambda: all(sleeps(one.pid) for one in stuck))
            yield Path(where)
            assert all(one.poll() is None for one in stuck), "it really hung all the time"
        finally:
            server.kill()
            server.communicate()
            for one in stuck:
                one.wait(60)
            subprocess.run(["umount", "-l", where], check=False, capture_output=True)


IMAGE_SERVER = Path(__file__).with_name("fuse_image.py")


@contextlib.contextmanager
def shell_on_fuse(code: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A shell whose image lies on a filesystem in user space, about to run ``code`` when it is sent
    a line; and the server, which answers no more questions about the image after SIGUSR1."""
    with tempfile.TemporaryDirectory(prefix="ew-hung-") as where:
        server = subprocess.Popen(
            [sys.executable, IMAGE_SERVER, where, os.path.realpath("/bin/dash")],
            stdout=subprocess.PIPE,
        )
        shell = None
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"mounted\n"
            shell = subprocess.Popen(
                [f"{where}/dash", "-c", f"echo up; read x; {code}; echo done"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert shell.stdout is not None
            assert shell.stdout.readline() == b"up\n"
            assert os.readlink(f"/proc/{shell.pid}/exe") == f"{where}/dash"
            server.send_signal(signal.SIGUSR1)
            assert server.stdout.readline() == b"silent\n"
            yield shell, server.pid
            assert server.poll() is None
        finally:
            server.kill()
            server.communicate()
            if shell is not None:
                shell.kill()
                shell.communicate()
            subprocess.run(["umount", "-l", where], check=False, capture_output=True)


@pytest.mark.parametrize("asks", ["anybody", "parent", "strict", "opening"])
def test_r4_who_asks_lies_on_a_hung_filesystem(asks: str) -> None:
    """What gate wants to know of him the kernel knows; his server is not asked."""
    with loop_ext4() as where, world(where) as here:
        good, evil = here.program("good", allow=True), here.program("evil", allow=False)
        notes = here.filesystem / "notes"
        notes.write_text("notes\n")
        here.strict = asks in ("strict", "opening")
        if asks == "parent":
            here.only_for("good", parents=(b"x" * 32,))
        here.enforcing()
        code = f'"{good}" "{here.markers}/theirs"' if asks != "opening" else f': < "{notes}"'
        with shell_on_fuse(code) as (shell, _):
            assert shell.stdin is not None
            assert shell.stdout is not None
            shell.stdin.write(b"\n")
            shell.stdin.flush()
            for _ in range(5):
                began = time.monotonic()
                assert here.outcome([evil]) == "denied"
                assert time.monotonic() - began < ANSWER_S + slack_s()
            assert not here.gate_is_gone()
            assert here.status().armed
            assert here.status().trips == 0
            if asks != "opening":  # dash is an interpreter by its name, and notes are not listed
                assert shell.stdout.readline() == b"done\n"
        assert (here.markers / "theirs").exists() is (asks in ("anybody", "strict"))


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_r4_a_hung_filesystem_stalls_no_exec_elsewhere(strict: bool) -> None:
    with loop_ext4() as where, world(where) as here:
        good, evil = here.program("good", allow=True), here.program("evil", allow=False)
        here.strict = strict
        here.enforcing()
        with hung():
            for command, outcome in (([good], "ran"), ([evil], "denied")) * 3:
                began = time.monotonic()
                assert here.outcome(command) == outcome
                assert time.monotonic() - began < ANSWER_S + slack_s()
            began = time.monotonic()
            assert here.status().armed
            assert here.set_mode("observe").ok
            assert here.set_mode("enforce").ok
            assert time.monotonic() - began < ANSWER_S + slack_s()
            assert here.status().trips == 0


def sleeps(pid: int) -> bool:
    """Whether a process is ``cat`` and waits in the kernel."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return "(cat)" in text and text.rpartition(")")[2].split()[0] in ("D", "S")
