"""Ways through strict mode, found by somebody who had read the judge and not the list of ways.

Written down before escape_variants.py and the ways of test_escapes.py were looked at. Each case is
a program in C outside the watched filesystem (what a user may have there is not gate's) that acts
on files on it, as root and as an ordinary user; what counts is the payload's marker. Where the
kernel gives no means, the test asserts what is claimed instead, and the gap that status names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from edgewarden.wire.local_tier import TierSaid
from tests.system.escape_ways import LOADER
from tests.system.exec_world import NOBODY, World, loop_ext4, private_tmpfs, world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount", "gcc")

UIDS = pytest.mark.parametrize("uid", [0, NOBODY])
HEAD = """
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
static void bound(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); alarm(600); }
static void leave(void) {
    const char *mark = getenv("MARK");
    if (mark) close(open(mark, O_CREAT | O_WRONLY, 0600));
}
"""
"""``bound``: whatever becomes of the test, nothing spins on."""
PROGRAM = HEAD + "int main(void) { leave(); return 0; }"
LIBRARY = HEAD + "__attribute__((constructor)) static void run(void) { leave(); }"
TOGGLE = (
    HEAD
    + """
int main(int count, char **word) {
    int fd = -1;
    bound();
    /* A gate that a busy machine keeps from running for 1.5 s denies what waits (strict). */
    for (int i = 0; i < 600 && (fd = open(word[1], O_RDWR)) < 0; i++) usleep(100000);
    if (fd < 0) return 1;
    if (count > 2) {
        volatile char *at = mmap(0, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        for (;;) { *at = 0x7f; *at = 0; }
    }
    for (;;) { pwrite(fd, "\\x7f", 1, 0); pwrite(fd, "\\0", 1, 0); }
}
"""
)
SWAP = (
    HEAD
    + """
struct move { unsigned reserved, donor; unsigned long long from, to, blocks, moved; };
int main(int count, char **word) {
    int fd = open(word[1], O_RDWR), donor = open(word[2], O_RDWR);
    unsigned long long at = strtoull(word[3], 0, 10);
    if (fd < 0 || donor < 0) return 2;
    fsync(fd); fsync(donor);
    for (int i = 0; i < 200; i++) {
        struct move move = {0, donor, at, at, 4, 0};
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        posix_fadvise(donor, 0, 0, POSIX_FADV_DONTNEED);
        if (!ioctl(fd, _IOWR('f', 15, struct move), &move)) {
            fsync(fd); fsync(donor);
            posix_fadvise(donor, 0, 0, POSIX_FADV_DONTNEED);
            return 0;
        }
        usleep(5000);
    }
    return 3;
}
"""
)
PAGE = 4096
BLOCK = 1024
"""Of the filesystem in the image."""
PADDING = 4 * PAGE


@pytest.fixture
def disk(runs: int) -> Iterator[World]:
    with loop_ext4() as where, world(where) as made:
        made.life_s += 2 * runs
        made.strict = True
        os.chmod(where, 0o755)
        made.program("good", allow=True)
        yield made


def compiled(disk: World, name: str, text: str, *flags: str) -> Path:
    source, path = disk.state / f"{name}.c", disk.state / name
    source.write_text(text)
    subprocess.run(["gcc", "-O1", "-w", *flags, "-o", path, source], check=True)
    return path


def own_folder(disk: World, uid: int) -> Path:
    folder = disk.filesystem / "own"
    folder.mkdir()
    os.chown(folder, uid, uid)
    return folder


def gets_through(
    disk: World, command: Sequence[str | Path], uid: int, more: Mapping[str, str] | None = None
) -> bool:
    """Whether the payload left its marker."""
    marker = disk.markers / "marker"
    marker.unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"], "MARK": str(marker), **(more or {})}
    with contextlib.suppress(OSError):
        subprocess.run(
            command, user=uid, group=uid, extra_groups=[], env=environment,
            capture_output=True, timeout=300,
        )  # fmt: skip
    return marker.exists()


@UIDS
@pytest.mark.parametrize("into", ["a program", "an interpreter", "the loader itself"])
def test_data_that_becomes_a_library_of_an_interpreter_below_its_data_path(
    disk: World, into: str, uid: int, runs: int
) -> None:
    """What an interpreter reads there is data; what its loader reads there is not."""
    folder = own_folder(disk, uid)
    notes = folder / "notes"
    flags = () if into == "the loader itself" else ("-shared", "-fPIC")
    code = PROGRAM if into == "the loader itself" else LIBRARY
    content = compiled(disk, "content", code, *flags).read_bytes()
    notes.write_bytes(b"\0" + content[1:])
    os.chown(notes, uid, uid)
    toggle = compiled(disk, "toggle", TOGGLE)
    disk.data = [str(folder)]
    command: list[str | Path] = {
        "a program": [disk.filesystem / "good", "/dev/null"],
        "an interpreter": ["/bin/sh", "-c", ":"],
        "the loader itself": [LOADER, notes],
    }[into]
    more = {} if into == "the loader itself" else {"LD_PRELOAD": str(notes)}
    (folder / "steady").write_bytes(content)
    steady = [folder / "steady" if word == notes else word for word in command]
    assert gets_through(disk, steady, uid, {key: str(folder / "steady") for key in more}), (
        "without marks it runs"
    )
    disk.enforcing()
    with subprocess.Popen([toggle, notes], user=uid, group=uid, extra_groups=[]) as one:
        try:
            through = sum(gets_through(disk, command, uid, more) for _ in range(10 * runs))
            assert one.poll() is None
        finally:
            one.kill()
    assert through == 0, f"{through} of {10 * runs}"


@UIDS
@pytest.mark.parametrize("below", ["", "a data path"])
@pytest.mark.parametrize("by", ["write", "mapping"])
def test_data_that_becomes_a_library_after_it_was_opened(
    disk: World, by: str, below: str, uid: int, runs: int
) -> None:
    """Who opens is no interpreter and what he opens is no ELF: data. A moment later it is one."""
    folder = own_folder(disk, uid)
    library = compiled(disk, "library", LIBRARY, "-shared", "-fPIC").read_bytes()
    toggle = compiled(disk, "toggle", TOGGLE)
    (folder / "steady").write_bytes(library)
    (folder / "notes").write_bytes(b"\0" + library[1:])
    os.chown(folder / "notes", uid, uid)
    disk.data = [str(folder)] if below else []
    good = [disk.filesystem / "good", "/dev/null"]
    assert gets_through(disk, good, uid, {"LD_PRELOAD": str(folder / "steady")}), "without marks"
    disk.enforcing()
    assert not gets_through(disk, good, uid, {"LD_PRELOAD": str(folder / "steady")})
    shown = subprocess.run(["cat", folder / "notes"], capture_output=True).stdout
    assert shown[1:] == library[1:], "it is data for everybody but a loader"
    command = [toggle, folder / "notes", *(["mapping"] if by == "mapping" else [])]
    with subprocess.Popen(command, user=uid, group=uid, extra_groups=[]) as one:
        try:
            through = sum(
                gets_through(disk, good, uid, {"LD_PRELOAD": str(folder / "notes")})
                for _ in range(10 * runs)
            )
            assert one.poll() is None
        finally:
            one.kill()
    assert through == 0, f"{through} of {10 * runs}"


@UIDS
@pytest.mark.parametrize("kind", ["program", "interpreter"])
def test_an_interpreter_bound_under_another_name(
    disk: World, kind: str, uid: int, runs: int
) -> None:
    """First under a name of the user's own, then under its right one: what was found out of an
    image by a name must not hold for everybody. Who calls an interpreter's content a program in his
    policy is believed under any name but an interpreter's: that is the gap ``classes``."""
    folder = own_folder(disk, uid)
    python = disk.filesystem / "python3"
    python.write_bytes(Path(os.path.realpath("/usr/bin/python3")).read_bytes())
    python.chmod(0o755)
    disk.listed("python3", python)
    disk.kinds = {"python3": kind}
    script = folder / "notes.txt"
    script.write_text("import os; open(os.environ['MARK'], 'w').close()\n")
    other = disk.markers / "other"
    other.touch()
    disk.enforcing()
    steps = f"mount --bind {python} {other} && exec {other} {script}"
    bound = plain = 0
    for _ in range(runs):
        bound += gets_through(disk, ["unshare", "-rm", "sh", "-c", steps], uid)
        plain += gets_through(disk, [python, script], uid)
    claimed = runs if kind == "program" else 0
    assert (bound, plain) == (claimed, 0), f"{bound} bound, then {plain} by its name, of {runs}"
    said = [f for f in disk.facts(disk.connect("gate-facts.sock")) if isinstance(f, TierSaid)]
    assert "classes" in said[0].gaps


RENAMED = {
    "copied": "{at}/foo {at}/notes $MARK",
    "its times moved": (
        "(for i in $(seq 100); do chmod 755 {at}/foo; done) & "
        "for i in $(seq 20); do {at}/foo {at}/notes $MARK; done; wait"
    ),
    "fresh each time": "cp {at}/foo {at}/bar; {at}/bar {at}/notes $MARK",
    "times moved while it runs": (
        "(sleep 0.1; echo) | {at}/foo -c 'chmod 755 {at}/foo; read x; set -- $MARK; . {at}/notes'"
    ),
    "in an overlay": (
        "unshare -rm sh -c 'mkdir {at}/w {at}/u {at}/m; mount -t overlay -o userxattr,"
        "lowerdir={at},upperdir={at}/u,workdir={at}/w ew {at}/m && {at}/m/foo {at}/m/notes $MARK'"
    ),
}


@UIDS
@pytest.mark.parametrize("where", ["ext4", "tmpfs"])
@pytest.mark.parametrize("how", RENAMED)
def test_a_listed_shell_under_another_name_is_a_shell(
    how: str, where: str, uid: int, runs: int
) -> None:
    made = private_tmpfs() if where == "tmpfs" else loop_ext4()
    with made as filesystem, world(filesystem) as here:
        here.life_s += 2 * runs
        here.strict = True
        filesystem.chmod(0o755)
        folder = own_folder(here, uid)
        shell = Path(os.path.realpath("/bin/sh"))
        (folder / "foo").write_bytes(shell.read_bytes())
        (folder / "foo").chmod(0o755)
        (folder / "notes").write_text(': > "$1"\n')
        for name in ("foo", "notes"):
            os.chown(folder / name, uid, uid)
        here.listed("shell", folder / "foo")
        here.kinds = {"shell": "shell"}
        command = ["sh", "-c", RENAMED[how].format(at=folder)]
        assert gets_through(here, command, uid), "without marks it runs"
        here.enforcing()
        through = sum(gets_through(here, command, uid) for _ in range(runs))
        assert through == 0, f"{through} of {runs}"


@pytest.mark.parametrize(
    ("strict", "uid"), [(False, 0), (False, NOBODY), (True, 0)], ids=["0", "65534", "strict-0"]
)
def test_a_listed_file_whose_blocks_are_exchanged(
    disk: World, strict: bool, uid: int, runs: int
) -> None:
    """EXT4_IOC_MOVE_EXT leaves zeros in the donor, and its times as they were. (In strict mode
    nobody but root opens a listed program that is his own.)"""
    folder = own_folder(disk, uid)
    payload = compiled(disk, "payload", PROGRAM).read_bytes()
    payload += b"x" * (PADDING + -len(payload) % PAGE)
    digest = hashlib.sha256(payload).digest()
    disk.rules.append(("padded", digest))
    swap = compiled(disk, "swap", SWAP)
    disk.strict = strict
    pairs = []
    for number in range(runs):
        listed, other = folder / f"listed{number}", folder / f"other{number}"
        listed.write_bytes(payload)
        other.write_bytes(b"y" * len(payload))
        listed.chmod(0o755)
        for path in (listed, other):
            os.chown(path, uid, uid)
        pairs.append((listed, other))
    os.sync()
    disk.enforcing()
    at = len(payload) // BLOCK - PAGE // BLOCK
    through = 0
    for listed, other in pairs:
        assert gets_through(disk, [listed], uid), "it is listed, and known from now on"
        before = listed.stat()
        wait_until(
            lambda other=other, listed=listed: (
                subprocess.run(
                    [swap, other, listed, str(at)], user=uid, group=uid, extra_groups=[]
                ).returncode
                == 0
            )
        )
        through += gets_through(disk, [listed], uid)
        after = listed.stat()
        assert (before.st_ctime_ns, before.st_mtime_ns) == (after.st_ctime_ns, after.st_mtime_ns)
        if not strict:
            read = subprocess.run(["dd", f"if={listed}", "bs=1M"], capture_output=True).stdout
            assert hashlib.sha256(read).digest() != digest, "it is another content"
    assert through == 0, f"{through} of {runs}"


@UIDS
def test_a_socket_that_somebody_opens_stops_nothing(disk: World, uid: int, runs: int) -> None:
    """The kernel cannot open it for gate either: no reason to let go of everybody."""
    folder = own_folder(disk, uid)
    evil = disk.program("evil", allow=False)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        os.chown(folder / "socket", uid, uid)
        disk.enforcing()
        for _ in range(runs):
            done = subprocess.run(
                ["cat", folder / "socket"], user=uid, group=uid, extra_groups=[],
                capture_output=True, timeout=300,
            )  # fmt: skip
            assert done.returncode != 0
            assert disk.outcome([evil]) == "denied"
    assert disk.status().armed
    assert disk.status().trips == 0


def waits_in_exec(program: Path) -> int:
    """Fork a process that waits for a verdict; it ends with the errno of its exec."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(program, [str(program)])
        except OSError as fault:
            os._exit(fault.errno or 99)
        finally:
            os._exit(98)
    wait_until(lambda: _state(pid) in "DZ")  # judged already, where this process stood still
    return pid


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_who_waits_is_judged_though_the_marks_are_renewed(disk: World, strict: bool) -> None:
    """Closing a group allows everybody who waits in it, and whoever can have the marks renewed
    would choose the moment."""
    disk.strict = strict
    large = [disk.filesystem / f"large{number}" for number in range(8)]
    for path in large:
        path.touch(mode=0o755)
        os.truncate(path, 127 << 20)
    with private_tmpfs() as other:
        evil, theirs = disk.program("evil", allow=False), other / "evil"
        theirs.write_bytes(evil.read_bytes())
        theirs.chmod(0o755)
        disk.enforcing()
        assert disk.outcome([theirs]) == "ran", "it is not watched"
        waiting = [waits_in_exec(path) for path in large]
        disk.besides = [str(other)]
        disk.policy("observe")
        assert disk.ask("reload").ok  # type: ignore[union-attr]
        assert disk.status().armed
        ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in waiting]
        assert ended == [errno.EPERM] * len(large), "ENOEXEC: it was let through"
        assert disk.outcome([theirs]) == "denied"
        assert disk.outcome([evil]) == "denied"
        disk.besides = []
        disk.policy("observe")
        assert disk.ask("reload").ok  # type: ignore[union-attr]
        assert disk.outcome([theirs]) == "ran"
        assert disk.outcome([evil]) == "denied"
        assert disk.outcome([disk.filesystem / "good"]) == "ran"


OVERLAID = {
    "program": "{at}/program",
    "library": "LD_PRELOAD={at}/library {good} /dev/null",
    "script": "python3 {at}/script.py",
}


@UIDS
@pytest.mark.parametrize("what", OVERLAID)
def test_an_overlay_of_ones_own_over_the_watched_filesystem(
    disk: World, what: str, uid: int, runs: int
) -> None:
    folder = own_folder(disk, uid)
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir()
        os.chown(folder / name, uid, uid)
    lower = folder / "lower"
    (lower / "program").write_bytes(compiled(disk, "payload", PROGRAM).read_bytes())
    (lower / "program").chmod(0o755)
    library = compiled(disk, "library", LIBRARY, "-shared", "-fPIC")
    (lower / "library").write_bytes(library.read_bytes())
    (lower / "script.py").write_text("import os; open(os.environ['MARK'], 'w').close()\n")
    command = OVERLAID[what].format(at=folder / "merged", good=disk.filesystem / "good")
    steps = (
        f"mount -t overlay -o userxattr,lowerdir={lower},upperdir={folder}/upper,"
        f"workdir={folder}/work overlay {folder}/merged || exit 9; "
    )
    shell = ["unshare", "-rm", "sh", "-c"]
    assert gets_through(disk, [*shell, steps + command], uid), "without marks it runs"
    disk.enforcing()
    through = sum(gets_through(disk, [*shell, steps + command], uid) for _ in range(runs))
    assert through == 0, f"{through} of {runs}"


SWAPS = 10_000
RACE = (
    HEAD
    + """
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
extern char **environ;
int main(int count, char **word) {
    long swaps = atol(word[3]), failed = 0, started = 0, denied = 0, other = 0;
    pid_t swapper = fork(), ended;
    bound();
    if (!swapper) {
        bound();
        for (long i = 0; i < swaps; i++) {
            failed += syscall(SYS_renameat2, AT_FDCWD, word[1], AT_FDCWD, word[2], 2) != 0;
            for (volatile int wait = 0; wait < 400000; wait++);
        }
        _exit(failed != 0);
    }
    for (;;) {
        int status, fault;
        pid_t pid;
        char *argv[] = {word[1], 0};
        if (waitpid(swapper, &status, WNOHANG) == swapper) { failed = status; break; }
        fault = posix_spawn(&pid, word[1], 0, 0, argv, environ);
        if (fault) { if (fault == EPERM) denied++; else other++; continue; }
        waitpid(pid, &status, 0);
        if (WEXITSTATUS(status) == 42) started++;
        else if (WEXITSTATUS(status) == 43) return 1;
        else other++;
    }
    printf("%ld %ld %ld %ld", failed, started, denied, other);
    return 0;
}
"""
)


@UIDS
@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_a2_ten_thousand_swaps_of_a_name_start_nothing_foreign(
    disk: World, strict: bool, uid: int
) -> None:
    folder = own_folder(disk, uid)
    own = compiled(disk, "listed", "int main(void) { return 42; }").read_bytes()
    disk.rules.append(("own", hashlib.sha256(own).digest()))
    text = PROGRAM.replace("return 0", "return 43")
    for name, content in (("one", own), ("two", compiled(disk, "foreign", text).read_bytes())):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    race = compiled(disk, "race", RACE)
    disk.strict = strict
    disk.enforcing()
    marker = disk.markers / "marker"
    done = subprocess.run(
        [race, folder / "one", folder / "two", str(SWAPS)],
        user=uid, group=uid, extra_groups=[], env={"MARK": str(marker)},
        capture_output=True, timeout=300, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    failed, started, denied, other = map(int, done.stdout.split())
    print(f"{SWAPS} swaps, {failed} failed; {started} started, {denied} denied, {other} otherwise")
    assert not marker.exists()
    assert failed == 0
    assert min(started, denied) >= 20, "both were met"
