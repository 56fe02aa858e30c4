"""gate on a real kernel: what is denied, what never is, and that nobody waits for it in vain."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import platform
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.judge.exec_table import compile_list
from edgewarden.wire import local
from edgewarden.wire.lean import seal
from edgewarden.wire.local import Alarm, Answer, ExecVerdict, GateStats, ProcBatch
from tests.steps import slack_s
from tests.system.exec_world import (
    AGENT,
    DAEMONS,
    NOBODY,
    PYTHON,
    World,
    loop_ext4,
    private_tmpfs,
    world,
)
from tests.waiting import LONG_S, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "fanotify-permission")]

AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.fixture(
    params=["tmpfs", pytest.param("ext4", marks=pytest.mark.needs("root", "loop-mount"))]
)
def each(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world on each kind of filesystem: one that is never cached, one that is."""
    filesystem = private_tmpfs() if request.param == "tmpfs" else loop_ext4()
    with filesystem as where, world(where) as made:
        yield made


@pytest.fixture
def small() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        yield made


# --- denied and allowed --------------------------------------------------------------------------


def test_unknown_is_denied_every_time_and_leaves_nothing(each: World, runs: int) -> None:
    good, evil = each.program("good", allow=True), each.program("evil", allow=False)
    assert each.outcome([evil]) == "ran"
    each.enforcing()
    for _ in range(runs):
        assert each.outcome([evil]) == "denied"
        assert each.outcome([good]) == "ran"
    status = each.status()
    assert (status.denied, status.allowed, status.undecidable) == (runs, runs, 0)


def test_a_verdict_names_content_process_and_user(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    link = small.connect("gate-facts.sock")
    os.chmod(small.filesystem, 0o755)
    assert small.outcome([*AS_NOBODY, evil]) == "denied"
    (verdict,) = [f for f in small.facts(link) if isinstance(f, ExecVerdict)]
    assert verdict.sha256 == hashlib.sha256(evil.read_bytes()).digest()
    assert (verdict.decision, verdict.reason, verdict.mode) == ("deny", "unlisted", "enforce")
    assert (verdict.tier, verdict.path_text(), verdict.uid) == ("T3", str(evil), NOBODY)
    assert verdict.pid > 0
    assert abs(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - verdict.boot_ns) < 30e9


def test_the_first_words_to_link_say_what_the_tier_does_not_reach(small: World) -> None:
    small.policy("observe")
    small.start_gate()
    link = small.connect("gate-facts.sock")
    said, *_ = [f for f in small.facts(link) if isinstance(f, local.TierSaid)]
    assert (said.tier, said.reason) == ("T3", "")
    assert {"inline", "scripts"} <= set(said.gaps)


def test_a_new_mode_is_told_at_once(small: World) -> None:
    small.enforcing()
    link = small.connect("gate-facts.sock")
    small.facts(link)
    assert small.set_mode("observe").ok
    told = [f.mode for f in small.facts(link) if isinstance(f, GateStats)]
    assert "observe" in told, "after the routine picture at most, if that was due just now"


LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
if os.fork() == 0:
    try:
        os.execv(sys.argv[1], [sys.argv[1], "/dev/null"])
    finally:
        os._exit(1)
print("leased", flush=True)
signal.pause()
"""


def test_a_users_write_lease_stalls_nobody_else(small: World) -> None:
    """The kernel opens the file for gate, and the lease's owner does not let go of it."""
    theirs, evil = small.program("theirs", allow=True), small.program("evil", allow=False)
    os.chmod(small.filesystem, 0o755)
    os.chown(theirs, NOBODY, NOBODY)
    small.enforcing()
    gate = small.gate_pid
    holder = subprocess.Popen(
        [*AS_NOBODY, sys.executable, "-I", "-S", "-c", LEASE, theirs], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"leased\n"
        took_s = []
        for _ in range(5):
            began = time.monotonic()
            assert small.outcome([evil]) == "denied"
            took_s.append(time.monotonic() - began)
        assert statistics.median(took_s) < 1, "one of five may have met a stall of the machine"
        assert (small.gate_pid, small.gate_is_gone(), small.status().trips) == (gate, False, 0)
    finally:
        holder.kill()
        holder.communicate()


def hardlink(evil: Path, _: Path) -> list[str]:
    os.link(evil, evil.with_name("linked"))
    return [str(evil.with_name("linked"))]


def rename(evil: Path, _: Path) -> list[str]:
    evil.rename(evil.with_name("good-looking"))
    return [str(evil.with_name("good-looking"))]


def symlink(evil: Path, outside: Path) -> list[str]:
    (outside / "link").symlink_to(evil)
    return [str(outside / "link")]


def in_shell(*steps: str) -> list[str]:
    return ["sh", "-c", " && ".join(steps), "sh"]


def bind_mount(evil: Path, outside: Path) -> list[str]:
    bind = f"mount --bind {evil.parent} {outside}"
    return ["unshare", "-m", *in_shell(bind, f'exec {outside}/{evil.name} "$@"')]


def user_namespace(evil: Path, outside: Path) -> list[str]:
    bind = f"mount --bind {evil.parent} {outside}"
    return [*AS_NOBODY, "unshare", "-rm", *in_shell(bind, f'exec {outside}/{evil.name} "$@"')]


def overlay(evil: Path, outside: Path) -> list[str]:
    mount = f"mount -t overlay -o lowerdir={evil.parent}:{outside} ew {outside}"
    return ["unshare", "-m", *in_shell(mount, f'exec {outside}/{evil.name} "$@"')]


def process_root(evil: Path, _: Path) -> list[str]:
    return [f"/proc/self/root{evil}"]


WAYS = [hardlink, rename, symlink, bind_mount, user_namespace, overlay, process_root]


@pytest.mark.parametrize("way", WAYS)
def test_no_other_way_to_the_same_content(
    small: World, way: Callable[[Path, Path], list[str]]
) -> None:
    evil = small.program("evil", allow=False)
    outside = small.state / "outside"
    outside.mkdir(mode=0o755)
    command = way(evil, outside)
    assert small.outcome(command) == "ran", "without marks this way must lead somewhere"
    small.enforcing()
    assert small.outcome(command) == "denied"
    assert small.status().denied >= 1


# --- changed after it was allowed ----------------------------------------------------------------


def by_write(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"EVIL")


def by_rewriting_at_once(path: Path) -> None:
    content = path.read_bytes()[:-4] + b"EVIL"
    with path.open("wb") as file:
        file.write(content)


def by_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[-1] is not None  # mapped by a read: tmpfs then sees no store
        mapping[-1] ^= 1


def by_a_second_store(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[-1] ^= 1
        mapping.flush()
        mapping[-2] ^= 1


@pytest.mark.parametrize("change", [by_write, by_rewriting_at_once, by_mapping, by_a_second_store])
def test_an_allowed_program_that_changed_is_denied(
    each: World, change: Callable[[Path], None]
) -> None:
    good = each.program("good", allow=True)
    each.enforcing()
    for _ in range(3):
        assert each.outcome([good]) == "ran"
    change(good)
    assert each.outcome([good]) == "denied"


def test_a_program_that_can_still_be_written_does_not_run(each: World) -> None:
    good = each.program("good", allow=True)
    each.enforcing()
    with good.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        file.close()
        assert each.outcome([good]) == "denied"
        assert each.status().cached == 0
    assert each.outcome([good]) == "ran"


def tiny_program(exit_code: int) -> bytes:
    """A static ELF program of some bytes that ends with ``exit_code`` (at most 255)."""
    if platform.machine() == "x86_64":
        machine = 62
        code = struct.pack("<BIBIBB", 0xBF, exit_code, 0xB8, 60, 0x0F, 0x05)  # exit(exit_code)
    else:
        assert platform.machine() == "aarch64"
        machine = 183
        code = struct.pack("<III", 0x52800000 | exit_code << 5, 0x52800BA8, 0xD1500001)
    base, size = 0x150000, 120 + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    return ident + header + segment + code


EXCHANGE = """
import os, select, sys
path, good, evil = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
while not select.select([0], [], [], 0)[0]:
    for content in (evil, good):
        try:
            fd = os.open(path, os.O_WRONLY)
        except OSError:
            continue
        os.pwrite(fd, content, 0)
        os.close(fd)
"""


EXCHANGE_S = 3.0


def test_content_cannot_be_exchanged_between_verdict_and_start(each: World) -> None:
    """A writer in a loop beside an exec in a loop; without the held lease 1 run in 100 is evil."""
    good, evil = tiny_program(0), tiny_program(66)
    path = each.filesystem / "tiny"
    path.write_bytes(good)
    path.chmod(0o755)
    each.rules.append(("tiny", hashlib.sha256(good).digest()))
    each.enforcing()
    command = [*PYTHON, "-c", EXCHANGE, str(path), good.hex(), evil.hex()]
    ended: Counter[object] = Counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        began = time.monotonic()

        def goes_on() -> bool:
            """For EXCHANGE_S at least, and until both contents were met: either may stand still."""
            lasted_s = time.monotonic() - began
            both = ended[0] > 0 and ended["EPERM"] > 0
            return lasted_s < EXCHANGE_S or (not both and lasted_s < LONG_S)

        while goes_on():
            try:
                pid = os.posix_spawn(path, ["tiny"], {})
            except OSError as fault:
                ended[errno.errorcode[fault.errno]] += 1
            else:
                ended[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
        writer.stdin.close()
        assert writer.wait(60) == 0
    assert ended[66] == 0, ended
    assert ended[0] > 0, ended
    assert ended["EPERM"] > 0, ended


def test_a_new_policy_counts_from_the_next_exec(each: World) -> None:
    late = each.program("late", allow=False)
    each.enforcing()
    assert each.outcome([late]) == "denied"
    each.rules.append(("late", hashlib.sha256(late.read_bytes()).digest()))
    each.policy("observe")
    answer = each.ask("reload")
    assert isinstance(answer, Answer)
    assert answer.ok
    assert each.outcome([late]) == "ran"


# --- one answer for everything --------------------------------------------------------------------


def kept_open(pid: int) -> set[tuple[str, str]]:
    """Descriptors of a process and what they are, without what it looks up in /proc just then."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add((fd.name, os.readlink(fd)))
    return {(fd, target) for fd, target in found if not target.startswith("/proc/")}


def test_odd_files_get_one_answer_each_and_nothing_is_left_open(small: World) -> None:
    good = small.program("good", allow=True)
    small.enforcing()
    before = kept_open(small.gate_pid)
    huge, fifo = small.filesystem / "huge", small.filesystem / "fifo"
    huge.touch(mode=0o755)
    os.truncate(huge, 2 << 30)
    os.mkfifo(fifo, 0o755)
    os.symlink("loop", small.filesystem / "loop")
    assert small.outcome([huge]) == "denied"
    assert small.outcome([fifo]) == "denied"  # by the kernel, EACCES
    assert small.outcome([small.filesystem]) == "denied"  # likewise
    assert small.outcome([small.filesystem / "gone"]) == "FileNotFoundError 2"
    assert small.outcome([small.filesystem / "loop"]) == "OSError 40"
    unlinked = small.program("unlinked", allow=False)
    held = os.open(unlinked, os.O_RDONLY)
    unlinked.unlink()
    script = f"import os, sys; os.execve({held}, sys.argv, {{}})"
    done = subprocess.run(
        [*PYTHON, "-c", script], pass_fds=(held,), capture_output=True, timeout=60
    )
    os.close(held)
    assert b"PermissionError" in done.stderr
    assert small.outcome([good]) == "ran"
    left: set[tuple[str, str]] = set()

    def all_closed() -> bool:
        """What was open only when ``before`` was taken (its other thread lists /proc) may go."""
        left.clear()
        left.update(kept_open(small.gate_pid) - before)
        return not left

    with contextlib.suppress(TimeoutError):
        wait_until(all_closed)
    assert left == set()
    status = small.status()
    assert (status.denied, status.allowed) == (2, 1)


def test_a_killed_process_leaves_no_question_open(small: World) -> None:
    good = small.program("good", allow=True)
    small.enforcing()
    with small.paused():
        waiting = [start_waiting(good) for _ in range(5)]
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert small.outcome([good]) == "ran"


def start_waiting(program: Path, *arguments: str, states: str = "D") -> int:
    """Fork a process that is stuck in execve; subprocess would wait for the exec with it.

    Args:
        states: one of them is awaited; "DZ" where it may have its answer before anybody looks.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(program, [str(program), *arguments])
        finally:
            os._exit(99)
    # wchan is empty where the kernel hides it; the state never is.
    wait_until(lambda: state_of(pid) in tuple(states))
    return pid


def state_of(pid: int) -> str:
    """The letter of proc(5), "" when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


FREED_S = 20.0
"""For twenty programs that start together on a machine at work."""


def test_sigkill_frees_whoever_waits(small: World) -> None:
    good = small.program("good", allow=True)
    small.enforcing()
    os.kill(small.guard_pid, signal.SIGSTOP)  # it would be quicker than this test
    os.kill(small.gate_pid, signal.SIGSTOP)
    marks = [small.markers / str(n) for n in range(20)]
    waiting = [start_waiting(good, str(mark)) for mark in marks]
    assert not any(mark.exists() for mark in marks)
    started = time.monotonic()
    os.kill(small.gate_pid, signal.SIGKILL)
    assert [os.waitpid(pid, 0)[1] for pid in waiting] == [0] * 20
    took_s = time.monotonic() - started
    assert took_s < FREED_S + slack_s(), "they would have waited for LIFE_S"
    assert all(mark.exists() for mark in marks)


SOON_S = 1.0
"""Beside a flood of large programs; alone it is some milliseconds."""


def test_a_flood_of_large_programs_delays_no_other(each: World) -> None:
    """Anybody may start them, and each is 127 MB to read."""
    tool = each.program("known-tool", allow=True)
    late = each.program("late", allow=True)
    flood = []
    for n in range(30):
        flood.append(each.filesystem / f"large-{n}")
        flood[-1].touch(mode=0o755)
        os.truncate(flood[-1], 127 << 20)
    each.enforcing()
    assert each.outcome([tool]) == "ran"
    waiting = [start_waiting(large, states="DZ") for large in flood]
    try:
        for program in (tool, late, tool):
            started = time.monotonic()
            assert each.outcome([program]) == "ran"
            took_s = time.monotonic() - started
            assert took_s < SOON_S + slack_s()
        hashed = each.status().hashed
        assert each.status().guard
        assert hashed < len(flood), "the flood was over before it could be in the way"
        each.ask("quit")
        wait_until(each.gate_is_gone)
    finally:
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("mode", ["learn", "observe"])
def test_learn_and_observe_deny_nothing_and_delay_nothing(small: World, mode: str) -> None:
    evil = small.program("evil", allow=False)
    small.policy(mode)
    small.start_guard()
    small.start_gate()
    link = small.connect("gate-facts.sock")
    assert small.status().source == "fanotify-notify"
    assert small.outcome([evil]) == "ran"
    decision = {"learn": "learned", "observe": "would_deny"}[mode]
    wait_until(lambda: small.status().learned + small.status().would_deny == 1)
    verdicts = [f for f in small.facts(link) if isinstance(f, ExecVerdict)]
    assert [(v.decision, v.reason, v.mode) for v in verdicts] == [(decision, "unlisted", mode)]
    # Who waits for a gate that stands still, and has no guard to end it, waits until its life is
    # over (LIFE_S): no time is measured, only that it is still there.
    with small.paused():
        assert small.outcome([evil]) == "ran"
        assert state_of(small.gate_pid) == "T"


def test_without_descriptors_gate_lets_go_and_says_so(small: World) -> None:
    good, evil = small.program("good", allow=True), small.program("evil", allow=False)
    small.enforcing()
    link = small.connect("gate-facts.sock")
    wait_until(lambda: small.status().link)
    # The limit is for the number of a descriptor, not for how many there are: the lowest free one.
    # Gate's second thread opens and closes some of its own: a round that met it is played again.
    limits = resource.prlimit(small.gate_pid, resource.RLIMIT_NOFILE)
    for _ in range(ROUNDS):
        free = min(lowest_free(small.gate_pid) for _ in range(20))
        resource.prlimit(small.gate_pid, resource.RLIMIT_NOFILE, (free, limits[1]))
        small.outcome([good])  # whatever the kernel says
        resource.prlimit(small.gate_pid, resource.RLIMIT_NOFILE, limits)
        if let_go(small, link):
            break
    else:
        pytest.fail("gate was never without a descriptor")
    wait_until(lambda: small.status().armed)  # tried again after RETRY_S
    assert small.outcome([good]) == "ran"
    assert small.outcome([evil]) == "denied"


ROUNDS = 20
R6_DESCRIPTORS = 64


def let_go(world: World, link: socket.socket) -> bool:
    """Has gate said by now that exec events failed?"""
    return "EW-EXEC-022" in [f.code for f in world.facts(link) if isinstance(f, Alarm)]


def test_r6_with_64_descriptors_it_is_degraded_and_not_hung(small: World) -> None:
    """Sixty at once, of which each needs two for as long as it is hashed: not all can be asked.

    All wait at one pipe: one after the other, each would be answered before the next one asks.
    """
    good, evil = small.program("good", allow=True), small.program("evil", allow=False)
    large = [small.filesystem / f"large-{number}" for number in range(60)]
    for path in large:
        path.touch(mode=0o755)
    small.enforcing()
    link = small.connect("gate-facts.sock")
    wait_until(lambda: small.status().link)
    gate, limits = small.gate_pid, resource.prlimit(small.gate_pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gate, resource.RLIMIT_NOFILE, (R6_DESCRIPTORS, limits[1]))
    for size in range(16 << 20, (16 << 20) + ROUNDS):  # another size, hashed anew
        for path in large:
            os.truncate(path, size)
        began = time.monotonic()
        assert executed_at_once(large) == [7] * 60
        small.outcome([good])
        assert time.monotonic() - began < LONG_S + slack_s(), "a gigabyte is hashed at most"
        if let_go(small, link):
            break
    else:
        pytest.fail("gate always had a descriptor left")
    resource.prlimit(gate, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: small.status().armed)  # tried again after RETRY_S
    assert small.outcome([evil]) == "denied"
    assert small.outcome([good]) == "ran"
    assert (small.status().trips, small.gate_is_gone()) == (0, False)


def executed_at_once(programs: list[Path]) -> list[int]:
    """Exit codes of children that wait for one pipe and then all call execve; 7 is a refusal."""
    start, starter = os.pipe()
    children = []
    for path in programs:
        pid = os.fork()
        if pid == 0:
            os.close(starter)
            os.read(start, 1)
            with contextlib.suppress(OSError):
                os.execv(path, [str(path)])
            os._exit(7)
        children.append(pid)
    os.close(starter)
    os.close(start)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def lowest_free(pid: int) -> int:
    """The number that the next descriptor of a process would get."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def test_a_link_that_does_not_listen_stalls_nobody(small: World) -> None:
    good, evil = small.program("good", allow=True), small.program("evil", allow=False)
    small.enforcing()
    link = small.connect("gate-facts.sock")
    wait_until(lambda: small.status().link)
    loop = f"i=0; while [ $i -lt 800 ]; do {good} /dev/null; i=$((i+1)); done"
    subprocess.run(["sh", "-c", loop], check=True, timeout=120)
    assert small.outcome([evil]) == "denied"
    subprocess.run(["sh", "-c", loop], check=True, timeout=120)
    status = small.status()
    assert status.allowed == 1600
    assert status.unreported > 0
    assert status.guard, "a heartbeat was late"
    heard = small.facts(link)
    denials = [f for f in heard if isinstance(f, ExecVerdict) and f.decision == "deny"]
    assert len(denials) == 1, "a denial is never dropped for routine"


def test_no_link_at_all_stalls_nobody(small: World) -> None:
    good = small.program("good", allow=True)
    small.enforcing()
    for _ in range(20):
        assert small.outcome([good]) == "ran"
    link = small.connect("gate-facts.sock")
    verdicts = [f for f in small.facts(link) if isinstance(f, ExecVerdict)]
    assert [v.decision for v in verdicts] == ["allow"] * 20


# --- who is heard ---------------------------------------------------------------------------------

ASK_STATUS = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(30)
s.connect(sys.argv[1]); sys.stdout.buffer.write(s.recv(4096))
"""


def test_control_is_for_root_by_the_kernels_word(small: World) -> None:
    """Not by the mode of the socket: it is opened to everybody here, as a mistake could."""
    small.policy()
    small.start_gate()
    os.chmod(small.run / "gate.sock", 0o666)
    command = [*AS_NOBODY, sys.executable, "-c", ASK_STATUS, str(small.run / "gate.sock")]
    done = subprocess.run(command, capture_output=True, timeout=60)
    refused = local.parse(done.stdout, Answer)
    assert (refused.ok, refused.name) == (False, "not_permitted")
    assert isinstance(small.status(), GateStats)


def test_facts_are_for_link_alone(small: World) -> None:
    small.policy(link_uid=1234)
    small.start_gate()
    assert (small.run / "gate-facts.sock").stat().st_uid == 1234
    os.chmod(small.run / "gate-facts.sock", 0o666)
    listen = [sys.executable, "-c", ASK_STATUS, str(small.run / "gate-facts.sock")]
    assert subprocess.run([*AS_NOBODY, *listen], capture_output=True, timeout=60).stdout == b""
    as_link = ["setpriv", "--reuid=1234", "--clear-groups", *listen]
    assert subprocess.run(as_link, capture_output=True, timeout=60).stdout != b""


def test_garbage_on_the_control_socket_is_refused_by_name(small: World) -> None:
    small.policy()
    small.start_gate()
    client = small.connect("gate.sock")
    client.send(b"\x01\x20\x09\0\x01\x09\0\0\0")
    assert local.parse(client.recv(4096), Answer).name == "bad_value"
    assert client.recv(4096) == b""
    assert small.status().mode == "learn"


# --- policy and mode ------------------------------------------------------------------------------


def spoil_stamp(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def give_away(path: Path) -> None:
    path.write_bytes(compile_list([]))
    os.chown(path, NOBODY, NOBODY)


def let_others_write(path: Path) -> None:
    path.write_bytes(compile_list([]))
    path.chmod(0o666)


def wrong_kind(path: Path) -> None:
    path.write_bytes(seal(b"EWGCONF1", b"mode learn\n"))


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (spoil_stamp, "bad_stamp"),
        (give_away, "not_root_owned"),
        (let_others_write, "not_root_owned"),
        (wrong_kind, "bad_magic"),
        (Path.unlink, "unreadable"),
    ],
)
def test_a_bad_table_leaves_the_last_good_one_and_an_alarm(
    small: World, spoil: Callable[[Path], None], name: str
) -> None:
    good, evil = small.program("good", allow=True), small.program("evil", allow=False)
    small.enforcing()
    link = small.connect("gate-facts.sock")
    spoil(small.state / "policy" / "exec.table")
    answer = small.ask("reload")
    assert isinstance(answer, Answer)
    assert (answer.ok, answer.name) == (False, name)
    assert small.outcome([good]) == "ran"
    assert small.outcome([evil]) == "denied"
    assert "EW-EXEC-017" in [f.code for f in small.facts(link) if isinstance(f, Alarm)]


def test_enforce_survives_a_restart_of_gate(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    small.ask("quit")
    wait_until(small.gate_is_gone)
    assert small.outcome([evil]) == "ran"
    small.start_gate()
    wait_until(lambda: small.status().armed)  # once guard has spoken
    assert small.status().mode == "enforce"
    assert small.outcome([evil]) == "denied"
    assert small.set_mode("observe").ok
    assert small.outcome([evil]) == "ran"
    small.ask("quit")
    wait_until(small.gate_is_gone)
    small.start_gate()
    assert small.status().mode == "observe"


TRIAL_S = 15
"""Time enough for one exec on a machine that stands still for a moment."""


def test_enforce_on_trial_goes_back_by_itself(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    assert small.set_mode("observe").ok
    link = small.connect("gate-facts.sock")
    answer = small.ask("mode", "enforce", TRIAL_S)
    assert isinstance(answer, Answer)
    assert answer.ok
    assert small.outcome([evil]) == "denied"
    wait_until(lambda: small.status().mode == "observe", TRIAL_S + LONG_S)
    assert not small.status().armed
    assert small.outcome([evil]) == "ran"
    assert "EW-EXEC-025" in [f.code for f in small.facts(link) if isinstance(f, Alarm)]
    late = small.ask("confirm")
    assert isinstance(late, Answer)
    assert (late.ok, late.name) == (False, "nothing_to_confirm")


def test_a_confirmed_trial_stays_and_survives_a_restart(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    assert small.set_mode("observe").ok
    small.ask("mode", "enforce", 600)
    confirmed = small.confirm()
    assert confirmed.ok, confirmed
    small.ask("quit")
    wait_until(small.gate_is_gone)
    small.start_gate()
    wait_until(lambda: small.status().armed)  # once guard has spoken
    assert small.status().mode == "enforce"
    assert small.outcome([evil]) == "denied"


def test_who_did_not_come_in_anew_cannot_confirm_a_trial(small: World) -> None:
    small.enforcing()
    assert small.set_mode("observe").ok
    small.ask("mode", "enforce", 600)
    refused = small.ask("confirm")
    assert isinstance(refused, Answer)
    assert (refused.ok, refused.name) == (False, "no_login"), "these tests came in by no door"
    assert small.confirm().ok


def test_a_restart_ends_a_trial(small: World) -> None:
    small.enforcing()
    assert small.set_mode("observe").ok
    small.ask("mode", "enforce", 600)
    small.ask("quit")
    wait_until(small.gate_is_gone)
    small.start_gate()
    assert small.status().mode == "observe"


def test_a_damaged_mode_is_not_believed(small: World) -> None:
    small.policy("observe")
    (small.state / "policy" / "mode").write_bytes(b"edgewarden mode enforce")
    small.start_gate()
    assert small.status().mode == "observe"
    link = small.connect("gate-facts.sock")
    assert "EW-EXEC-018" in [f.code for f in small.facts(link) if isinstance(f, Alarm)]


def test_the_mode_is_written_where_gate_answers_for_execs_alone() -> None:
    """As on the filesystem that holds /: writing a file raises no exec event."""
    with private_tmpfs() as where, world(where) as here:
        (where / "state").mkdir()
        here.policy("observe")
        os.rename(here.state / "policy", here.state / "old")
        subprocess.run(["cp", "-a", here.state / "old", where / "policy"], check=True)
        here.start_guard()
        state, here.state = here.state, where
        here.start_gate()
        here.state = state
        wait_until(lambda: here.status().guard)
        answer = here.set_mode("enforce")
        assert answer.ok
        assert answer.text == "enforce; kept over a restart"
        assert (where / "policy" / "mode").read_text() == "edgewarden mode enforce\n"
        assert here.status().armed


def test_no_policy_directory_is_said_and_gate_does_not_start(small: World) -> None:
    command = [*PYTHON, str(DAEMONS / "gate.py"), str(small.state), str(small.run)]
    done = subprocess.run(["timeout", "60", *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "policy" in done.stderr


def test_a_second_gate_leaves_the_first_its_sockets(small: World) -> None:
    small.policy()
    small.start_gate()
    before = [(small.run / name).stat().st_ino for name in ("gate.sock", "gate-facts.sock")]
    command = [*PYTHON, str(DAEMONS / "gate.py"), str(small.state), str(small.run)]
    done = subprocess.run(["timeout", "60", *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "another gate listens here" in done.stderr
    after = [(small.run / name).stat().st_ino for name in ("gate.sock", "gate-facts.sock")]
    assert after == before
    assert isinstance(small.status(), GateStats)


def test_what_a_killed_gate_has_left_is_replaced(small: World) -> None:
    small.policy()
    small.start_gate()
    os.kill(small.gate_pid, signal.SIGKILL)
    wait_until(small.gate_is_gone)
    assert (small.run / "gate-facts.sock").exists()
    small.start_gate()
    assert isinstance(small.status(), GateStats)


# --- the world around changes ---------------------------------------------------------------------


def test_a_remounted_filesystem_is_marked_again(small: World) -> None:
    small.enforcing()
    subprocess.run(["umount", small.filesystem], check=True, timeout=30)
    wait_until(lambda: not small.status().armed)
    mount = ["mount", "-t", "tmpfs", "-o", "mode=0755", "ew-test", small.filesystem]
    subprocess.run(mount, check=True, timeout=30)
    wait_until(lambda: small.status().armed)
    evil = small.program("evil", allow=False)
    assert small.outcome([evil]) == "denied"


def test_processes_are_told_to_link(small: World) -> None:
    small.policy()
    small.start_gate()
    link = small.connect("gate-facts.sock")

    def told() -> list[str]:
        child = subprocess.Popen(["/bin/true"])
        child.wait(30)
        return [
            entry.kind
            for fact in small.facts(link)
            if isinstance(fact, ProcBatch)
            for entry in fact.entries
            if entry.pid == child.pid
        ]

    # Not the first: gate tells nobody before it has taken the connection, and of a machine that
    # starts much at once it tells some by number alone.
    wait_until(lambda: told() == ["fork", "exec", "exit"])


# --- what gate is made of -------------------------------------------------------------------------

HEAVY = (
    "asyncio", "ssl", "_ssl", "_hashlib", "socket", "subprocess", "logging", "typing", "enum",
    "ctypes",
)  # fmt: skip
FOREIGN = (
    "dataclasses",
    "argparse",
    "tomllib",
    "cbor2",
    "cryptography",
    "paho",
    "serial",
    "psutil",
)


@pytest.mark.parametrize("name", ["gate", "guard"])
def test_the_lean_processes_import_nothing_heavy(name: str) -> None:
    code = (
        f"import sys; sys.path.append({str(AGENT)!r}); import edgewarden.daemon.{name}; "
        f"print(*(m for m in {HEAVY + FOREIGN!r} if m in sys.modules))"
    )
    done = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


DOORS_CODE = """
import os, sys
sys.path.append(sys.argv[1])
from edgewarden.gate.doors import Doors
doors = Doors(sys.argv[2])
doors.close_all_others()
tries = {
    "open": lambda: open("/etc/hostname"),
    "os.open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "import": lambda: __import__("json"),
    "fork": os.fork,
    "system": lambda: os.system("true"),
    "door to a path": lambda: doors.open(-100, "/etc/hostname", os.O_RDONLY),
    "door around": lambda: doors.open(doors.proc_fd, "self/root/../etc/hostname", os.O_RDONLY),
    "a program under marks": lambda: doors.open_program(os.getpid()),
    "execv": lambda: os.execv("/bin/true", ["true"]),
    "around sysfs": lambda: doors.open_device(doors.sys_fd, "class/../../etc/hostname", 0),
    "cgroups": lambda: doors.open_device(doors.sys_fd, "fs/cgroup", 0),
    "a directory elsewhere": lambda: doors.open_device(doors.policy_fd, "exec.table", 0),
    "what is not ours": lambda: doors.open_device(doors.sys_fd, "class/net/lo/mtu", os.O_WRONLY),
    "to make": lambda: doors.open_device(doors.sys_fd, "authorized", os.O_WRONLY | os.O_CREAT),
}
import _thread
doors._inside.add(_thread.get_ident() + 1)  # another thread stands in a door: no way for this one
doors.permission_marks = True
for name, attempt in tries.items():
    try:
        attempt()
        sys.stdout.write(f"{name} went through\\n")
    except Exception as fault:
        if type(fault).__name__ != "OurFault":
            sys.stdout.write(f"{name}: {fault!r}\\n")
    sys.stdout.flush()
assert "State" in doors.proc_text("self/status")
os.close(doors.open(-100, "/etc", os.O_PATH))
assert doors.read_policy("exec.table", 100)
"""


def test_once_closed_only_the_doors_are_open(small: World) -> None:
    small.policy()
    command = [*PYTHON, "-c", DOORS_CODE, str(AGENT), str(small.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == ""
