"""BPF: what is missing is named; what is loaded stops, kills or spares exactly whom it was told to.

The programs see every exec of this machine, so nothing here sets anything but PASS for whom it has
not made itself: `otherwise` stays 0 and only children of this process are named in `tasks`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.kernel import bpf_objects, libbpf
from edgewarden.kernel.libbpf import Libbpf, Ring
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PASS, STOP, KILL = range(3)
STOPPED, KILLED, RESUMED = range(3)
U32 = struct.Struct("=I")
SETTINGS = struct.Struct("=QQIIII")
EVENT = struct.Struct("=QIIII16s")


class Loaded:
    """The program of tier T2, attached; ``otherwise`` is PASS and stays so."""

    def __init__(self) -> None:
        self.bpf = Libbpf()
        self.fds = self.bpf.load(bpf_objects.EXEC_STOP)
        self.events: list[tuple[int, ...]] = []
        self.pid = os.getpid()
        self.ring = Ring(self.bpf, self.fds["events"], self.take)
        for tracepoint, program in (
            ("sched_process_exec", "exec_stop"),
            ("signal_generate", "exec_resumed"),
        ):
            self.fds[tracepoint] = self.bpf.attach(tracepoint, self.fds[program])

    def take(self, record: bytes) -> bool:
        self.events.append(EVENT.unpack(record)[1:5])
        return True

    def beat(self, age_s: float = 0) -> None:
        ours = SETTINGS.pack(time.monotonic_ns() - int(age_s * 1e9), 0, 0, PASS, self.pid, 0)
        self.bpf.put(self.fds["settings"], U32.pack(0), ours)

    def start(self, action: int, beat_age_s: float = 0) -> int:
        """A child that becomes ``true`` once the program knows what to do with it.

        The child gives the heartbeat itself, right before: a second old it is none, and the two of
        us may be kept from running for longer.
        """
        go, went = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(120)
            try:
                os.read(go, 1)
                self.beat(beat_age_s)
                os.execv("/bin/true", ["true"])
            finally:
                os._exit(1)
        os.close(go)
        self.bpf.put(self.fds["tasks"], U32.pack(pid), U32.pack(action))
        os.write(went, b"!")
        os.close(went)
        return pid

    def heard(self, kind: int, pid: int) -> bool:
        self.ring.consume()
        return any(event[:2] == (kind, pid) for event in self.events)

    def close(self) -> None:
        self.ring.close()
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    made = Loaded()
    try:
        yield made
    finally:
        made.close()


def test_the_objects_are_those_that_their_digests_name() -> None:
    for name in ("EXEC_STOP", "LSM_PROBE"):
        image = getattr(bpf_objects, name)
        assert hashlib.sha256(image).hexdigest() == getattr(bpf_objects, f"{name}_SHA256")


@pytest.mark.needs("clang-14")
def test_the_objects_are_what_their_sources_give() -> None:
    check = ["bash", str(ROOT / "deploy/bpf/build.sh"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_library_is_a_named_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf-that-is-not-there.so.1")
    with pytest.raises(HardwareFault, match="libbpf-that-is-not-there") as caught:
        Libbpf()
    assert caught.value.code == "EW-EXEC-060"
    assert "libbpf1" in caught.value.next_step


@pytest.mark.needs("root", "bpf-tracepoint")
def test_what_the_kernel_refuses_is_a_named_fault() -> None:
    bpf = Libbpf()
    with pytest.raises(HardwareFault) as no_object:
        bpf.load(b"no object at all")
    assert no_object.value.fields["call"] == "bpf_object__open_mem"
    fds = bpf.load(bpf_objects.EXEC_STOP)
    try:
        with pytest.raises(HardwareFault) as no_tracepoint:
            bpf.attach("no_such_tracepoint", fds["exec_stop"])
        assert no_tracepoint.value.fields["errno"] == errno.ENOENT
        with pytest.raises(HardwareFault) as no_ring:
            Ring(bpf, fds["settings"], lambda record: True)
        assert no_ring.value.fields["call"] == "ring_buffer__new"
    finally:
        for fd in fds.values():
            os.close(fd)


@pytest.mark.needs("root", "bpf-tracepoint")
def test_a_stopped_program_stands_before_its_first_instruction(loaded: Loaded) -> None:
    pid = loaded.start(STOP)
    wait_until(lambda: loaded.heard(STOPPED, pid))
    wait_until(lambda: b") T " in Path(f"/proc/{pid}/stat").read_bytes())
    assert os.readlink(f"/proc/{pid}/exe").endswith("/true")
    os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, 0)[1] == 0
    assert not loaded.heard(RESUMED, pid)  # it was we who resumed it


@pytest.mark.needs("root", "bpf-tracepoint")
def test_a_strangers_resume_is_told(loaded: Loaded) -> None:
    pid = loaded.start(STOP)
    wait_until(lambda: loaded.heard(STOPPED, pid))
    stranger = subprocess.Popen(["sh", "-c", f"kill -CONT {pid}"])
    assert stranger.wait(60) == 0
    assert os.waitpid(pid, 0)[1] == 0
    wait_until(lambda: loaded.heard(RESUMED, pid))
    assert (RESUMED, pid, os.getuid(), stranger.pid) in loaded.events


@pytest.mark.needs("root", "bpf-tracepoint")
def test_who_is_to_be_killed_cannot_be_resumed(loaded: Loaded) -> None:
    pid = loaded.start(KILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert loaded.heard(KILLED, pid)


@pytest.mark.needs("root", "bpf-tracepoint")
@pytest.mark.parametrize("action", [STOP, KILL])
def test_nobody_is_stopped_for_a_responder_that_is_silent(loaded: Loaded, action: int) -> None:
    pid = loaded.start(action, beat_age_s=1.1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not loaded.heard(STOPPED, pid)


@pytest.mark.needs("root", "bpf-tracepoint")
def test_nobody_is_stopped_unasked_or_after_the_descriptors_are_closed() -> None:
    made = Loaded()
    assert subprocess.run(["true"], timeout=30).returncode == 0
    pid = made.start(PASS)
    assert os.waitpid(pid, 0)[1] == 0
    assert not made.heard(STOPPED, pid)
    made.close()
    assert subprocess.run(["true"], timeout=30).returncode == 0
