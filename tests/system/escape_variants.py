"""Other mechanisms than escape_ways.py, by another hand: how else does foreign code get to run?

By other system calls (execveat on a directory descriptor, posix_spawn, a thread that is not the
leader), by other paths to one inode (chroot, the magic links of another process, a file opened
before its name was replaced), by other inputs of other interpreters (an interpreter named by a
script, Python's zip files and ``.pth``, perl's ``-M``, bash's BASH_ENV), by other openings of one
library (through a descriptor's link, by a name that a program asks for anyway).
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

Way = Callable[[Path, Path], list[str]]
PY = sys.executable


def _program(folder: Path, name: str = "payload") -> Path:
    path = folder / name
    path.write_bytes(Path("/usr/bin/install").read_bytes() + os.urandom(16))
    path.chmod(0o700)
    return path


MAKE = ["-m", "600", "/dev/null"]
"""``install -m 600 /dev/null MARKER``: the payload of a program here."""


def _lib(folder: Path, name: str) -> Path:
    code = (
        "#include <stdio.h>\n#include <stdlib.h>\nint init_(void) __attribute__((constructor));\n"
    )
    code += 'int init_(void) { FILE *f = fopen(getenv("MARK"), "w"); return f ? fclose(f) : 0; }\n'
    (folder / "p.c").write_text(code)
    out = folder / name
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", "-o", out, folder / "p.c"], check=True)
    return out


def execveat_on_directory(here: Path, _: Path) -> list[str]:
    _program(here)
    code = (
        "import ctypes, os, sys; d = os.open(sys.argv[1], os.O_PATH)\n"
        "nr = {'x86_64': 322, 'aarch64': 281}[os.uname().machine]\n"
        "a = (ctypes.c_char_p * 6)(b'x', b'-m', b'600', b'/dev/null', sys.argv[2].encode(), None)\n"
        "ctypes.CDLL(None).syscall(nr, d, b'payload', a, None, 0)\n"
    )
    return [PY, "-c", code, str(here)]


def from_a_thread(here: Path, _: Path) -> list[str]:
    code = (
        "import os, sys, threading; a = ['x', '-m', '600', '/dev/null', sys.argv[2]]\n"
        "t = threading.Thread(target=lambda: os.execv(sys.argv[1], a)); t.start(); t.join()\n"
    )
    return [PY, "-c", code, str(_program(here))]


def spawned(here: Path, _: Path) -> list[str]:
    code = (
        "import os, sys; a = ['x', '-m', '600', '/dev/null', sys.argv[2]]\n"
        "os.waitpid(os.posix_spawn(sys.argv[1], a, {}), 0)\n"
    )
    return [PY, "-c", code, str(_program(here))]


def changed_root(here: Path, outside: Path) -> list[str]:
    """A root of its own, bound from the watched filesystem, with the loader beside the program."""
    path = _program(here)
    steps = (
        f"mount --rbind / {outside} && mount --bind {here} {outside}/mnt && "
        f'exec chroot {outside} /mnt/{path.name} -m 600 /dev/null "$1"'
    )
    return ["unshare", "-rm", "sh", "-c", steps, "sh"]


def through_another_process(here: Path, _: Path) -> list[str]:
    """The magic link to a descriptor of somebody else."""
    code = (
        "import os, subprocess, sys; fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "p = f'/proc/{os.getpid()}/fd/{fd}'\n"
        "subprocess.run([p, '-m', '600', '/dev/null', sys.argv[2]], close_fds=True)\n"
    )
    return [PY, "-c", code, str(_program(here))]


def opened_then_replaced(here: Path, _: Path) -> list[str]:
    """The descriptor is of the foreign file, its name leads to a listed one by then."""
    _program(here)
    code = (
        "import os, sys; d = sys.argv[1]; fd = os.open(d + '/payload', os.O_RDONLY)\n"
        "try: os.symlink('../listed', d + '/tmp'); os.rename(d + '/tmp', d + '/now')\n"
        "except OSError: pass\n"
        "os.execve(fd, ['x', '-m', '600', '/dev/null', sys.argv[2]], {})\n"
    )
    return [PY, "-c", code, str(here)]


def copied_bytes(here: Path, _: Path) -> list[str]:
    """A new file each time: nothing of it can be known by inode."""
    _program(here)
    code = (
        "import os, shutil, subprocess, sys; d = sys.argv[1]; n = d + f'/n{os.getpid()}'\n"
        "shutil.copy(d + '/payload', n)\n"
        "try: subprocess.run([n, '-m', '600', '/dev/null', sys.argv[2]])\n"
        "finally: os.unlink(n)\n"  # a thousand of them fill the disk
    )
    return [PY, "-c", code, str(here)]


def interpreter_of_a_script(here: Path, outside: Path) -> list[str]:
    """The script lies elsewhere; what its first line names is the foreign program."""
    inner = here / "interp"
    inner.write_bytes(b'#!/bin/sh\n: > "$2"\n')
    inner.chmod(0o755)
    script = outside / "s"
    script.write_text(f"#!{inner}\n")
    script.chmod(0o755)
    return [str(script)]


def zip_file(here: Path, _: Path) -> list[str]:
    with zipfile.ZipFile(here / "bundle", "w") as made:
        made.writestr("__main__.py", "import sys; open(sys.argv[1], 'w')")
    return [PY, str(here / "bundle")]


def path_file(here: Path, _: Path) -> list[str]:
    """A .pth that site executes."""
    (here / "a.pth").write_text("import os; open(os.environ['MARK'], 'w')\n")
    return [PY, "-c", f"import site; site.addsitedir({str(here)!r})"]


def perl_require(here: Path, _: Path) -> list[str]:
    (here / "Evil.pm").write_text("open(my $f, '>', $ENV{MARK}); close $f; 1;\n")
    return ["perl", f"-I{here}", "-MEvil", "-e", "1"]


def shell_environment(here: Path, _: Path) -> list[str]:
    (here / "rc").write_text(': > "$MARK"\n')
    return ["env", f"BASH_ENV={here}/rc", "bash", "-c", ":"]


def library_by_descriptor(here: Path, _: Path) -> list[str]:
    made = _lib(here, "plain-data.dat")
    code = (
        "import ctypes, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "ctypes.CDLL(f'/proc/self/fd/{fd}')\n"
    )
    return [PY, "-c", code, str(made)]


def library_by_search_path(here: Path, _: Path) -> list[str]:
    """A name that a program asks for anyway."""
    wanted = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    name = next(w for w in wanted.split() if w.startswith("libselinux") or "pcre" in w)
    _lib(here, Path(name).name)
    return ["env", f"LD_LIBRARY_PATH={here}", "/bin/ls"]


def mapped_by_hand(here: Path, _: Path) -> list[str]:
    """The loader is told to start a copy that has no execute bit."""
    path = _program(here)
    path.chmod(0o600)
    loader = next(Path("/lib64").glob("ld-linux*"), Path("/lib/ld-linux-aarch64.so.1"))
    return [str(loader), "--argv0", "x", str(path), *MAKE]


def here_shell_reads_on(here: Path, _: Path) -> list[str]:
    """A descriptor opened by one program, read as a script by the next."""
    (here / "lines").write_text(': > "$MARK"\n')
    return ["bash", "-c", f"exec 9< {here}/lines; exec bash /dev/fd/9"]


KERNEL_WAYS: tuple[Way, ...] = (
    execveat_on_directory, from_a_thread, spawned, changed_root, through_another_process,
    opened_then_replaced, copied_bytes, interpreter_of_a_script,
)  # fmt: skip
ALL_WAYS: tuple[Way, ...] = (
    *KERNEL_WAYS, zip_file, path_file, perl_require, shell_environment, library_by_descriptor,
    library_by_search_path, mapped_by_hand, here_shell_reads_on,
)  # fmt: skip
