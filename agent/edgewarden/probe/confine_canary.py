"""The canary of tier T1: tries, from inside a unit with a managed service's directives, what that
service must not be able to do, and what it must.

Started by path in a transient unit (probe/confine_verify.py) as the service's own user, with this
interpreter as the one addition to what the service may execute. It prints one JSON object: name of
the attempt -> what the kernel said ("EACCES", "ran", "exit 0", ...). It judges nothing.

    python3 -I -S .../probe/confine_canary.py DROPPED SCRIPT LIBRARY LOADER PROGRAM...

DROPPED is an ELF program that does nothing, SCRIPT a shell script, both dropped where nothing keeps
them from running but the directives; LIBRARY is DROPPED again, as a preload would have it mapped.
LOADER --list PROGRAM maps the service's program and its libraries without running any of it.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import sys

MAP_BYTES = 4096
MFD_EXEC = 0x10  # <linux/memfd.h>, kernel 6.3; older kernels refuse the flag with EINVAL
CLONE_NEWUSER = 0x10000000  # <linux/sched.h>
LAST_CHILD_CODE = 99


def main(dropped: str, script: str, loader: str, programs: list[str]) -> dict[str, str]:
    """Every attempt, in an order in which none spoils the next."""
    said = {
        "exec": run([dropped]),
        "script": run([script]),
        "map": try_map(dropped),
        "memory": try_memory(),
        "memfd": try_memfd(dropped),
        "write": try_write(programs[0]),
        "namespace": try_namespace(),
        "privileges": status_of("NoNewPrivs"),
        "places": " ".join(open_places()),
    }
    if loader:
        said["loader"] = run([loader, dropped])
        for program in programs:
            said[f"list {program}"] = run([loader, "--list", program])
    return said


def run(command: list[str]) -> str:
    """Execute in a child: "exit N", "signal N", or the errno's name when it did not start."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execv(command[0], command)  # noqa: S606 - a shell would have no part in this
        except OSError as fault:
            os.write(theirs, name_of(fault).encode())
        os._exit(LAST_CHILD_CODE)
    os.close(theirs)
    failed = os.read(ours, 64).decode()
    os.close(ours)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return failed or (f"exit {code}" if code >= 0 else f"signal {-code}")


def try_map(path: str) -> str:
    """Map a file as code, which is what a loader and a preload do."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mmap.mmap(fd, MAP_BYTES, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError as fault:
        return name_of(fault)
    finally:
        os.close(fd)
    return "mapped"


def try_memory() -> str:
    """Ask for memory that is writable and executable."""
    prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        mmap.mmap(-1, MAP_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot).close()
    except OSError as fault:
        return name_of(fault)
    return "mapped"


def try_memfd(path: str) -> str:
    """Run a program from a memory file."""
    fd = -1
    for flags in (MFD_EXEC, 0):
        try:
            fd = os.memfd_create("canary", flags)
            break
        except OSError as fault:
            if fault.errno != errno.EINVAL:
                return name_of(fault)
    if fd < 0:
        return "EINVAL"
    with open(path, "rb") as file:
        os.write(fd, file.read())
    return run([f"/proc/self/fd/{fd}"])


def try_write(path: str) -> str:
    """Open a program of the service's for writing, without writing.

    For root the kernel looks at ETXTBSY first, which ends with the process; so it is asked for the
    mount's own flag then.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as fault:
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        return "EROFS" if fault.errno == errno.ETXTBSY and read_only else name_of(fault)
    return "opened"


def try_namespace() -> str:
    """A user namespace, from which mounts would come; "untried" before Python 3.12."""
    unshare = getattr(os, "unshare", None)
    if unshare is None:
        return "untried"
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWUSER)
        except OSError as fault:
            os._exit(min(fault.errno or 1, LAST_CHILD_CODE))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "made" if code == 0 else errno.errorcode.get(code, str(code))


def open_places() -> list[str]:
    """Folders that are not noexec, by mount point; of two mounts on one the upper counts."""
    found: dict[str, bool] = {}
    with open("/proc/self/mountinfo") as table:
        for line in table:
            words = line.split(" ")
            found[words[4]] = "noexec" in words[5].split(",")
    return [point for point, closed in found.items() if not closed and os.path.isdir(point)]


def status_of(field: str) -> str:
    """One field of /proc/self/status."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return line.split(":", 1)[1].strip()
    return ""


def name_of(fault: OSError) -> str:
    """EPERM and its kind."""
    return errno.errorcode.get(fault.errno or 0, str(fault.errno))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])))
