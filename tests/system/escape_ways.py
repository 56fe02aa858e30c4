"""Ways to run what is not listed: the bypass matrix of test_escapes.py.

Each way is given a folder of its own on the watched filesystem, that belongs to the user who
tries, and a folder elsewhere; it returns a command. Run with the marker's path as its last argument
(and in MARK), the command leaves the marker if its payload ran.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Way = Callable[[Path, Path], list[str]]

PYTHON = sys.executable
LOADER = next(Path("/lib64").glob("ld-linux*"), Path("/lib/ld-linux-aarch64.so.1"))
SHELL_CODE = ': > "$1"\n'
PYTHON_CODE = "import sys; open(sys.argv[1], 'w').close()\n"
PERL_CODE = "open(my $f, '>', $ARGV[0]); close $f;\n"
LIBRARY_CODE = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
unsigned la_version(unsigned v) { return v; }
static __attribute__((constructor)) void at_load(void) {
    const char *mark = getenv("MARK");
    if (mark) close(open(mark, O_CREAT | O_WRONLY, 0644));
}
"""


def put(path: Path, content: str | bytes, mode: int = 0o755) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def elf(folder: Path, name: str = "evil") -> Path:
    return put(folder / name, Path("/bin/touch").read_bytes() + b"\0evil\0")


def library(folder: Path) -> Path:
    source = put(folder / "evil.c", LIBRARY_CODE, 0o644)
    made = folder / "evil.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, source], check=True, timeout=60)
    return made


def in_shell(*steps: str) -> list[str]:
    return ["sh", "-c", " && ".join(steps), "sh"]


# --- in every mode: what the kernel executes ------------------------------------------------------


def unknown_elf(here: Path, _: Path) -> list[str]:
    return [str(elf(here))]


def script(here: Path, _: Path) -> list[str]:
    return [str(put(here / "run.sh", "#!/bin/sh\n" + SHELL_CODE))]


def hard_link(here: Path, _: Path) -> list[str]:
    os.link(elf(here), here / "linked")
    return [str(here / "linked")]


def symbolic_link(here: Path, outside: Path) -> list[str]:
    (outside / "link").symlink_to(elf(here))
    return [str(outside / "link")]


def process_root(here: Path, _: Path) -> list[str]:
    return [f"/proc/self/root{elf(here)}"]


def bind_mount(here: Path, outside: Path) -> list[str]:
    bind = f"mount --bind {here} {outside}"
    return ["unshare", "-rm", *in_shell(bind, f'exec {outside}/{elf(here).name} "$@"')]


def overlay(here: Path, outside: Path) -> list[str]:
    mount = f"mount -t overlay -o lowerdir={here}:{outside} ew {outside}"
    return ["unshare", "-rm", *in_shell(mount, f'exec {outside}/{elf(here).name} "$@"')]


def by_descriptor(here: Path, _: Path) -> list[str]:
    code = f"import os, sys; os.execve(os.open({str(elf(here))!r}, 0), ['x', sys.argv[1]], {{}})"
    return [PYTHON, "-c", code]


def by_proc_fd(here: Path, _: Path) -> list[str]:
    code = (
        f"import os, sys; fd = os.open({str(elf(here))!r}, os.O_PATH); "
        "os.execv(f'/proc/self/fd/{fd}', ['x', sys.argv[1]])"
    )
    return [PYTHON, "-c", code]


def unlinked_file(here: Path, _: Path) -> list[str]:
    """O_TMPFILE: a file that never has a name."""
    elf(here)
    code = (
        f"import os, sys; d = {str(here)!r}; fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o755); "
        "os.write(fd, open(d + '/evil', 'rb').read()); r = os.open(f'/proc/self/fd/{fd}', 0); "
        "os.close(fd); os.execve(r, ['x', sys.argv[1]], {})"
    )
    return [PYTHON, "-c", code]


RACE = """
import os, sys, time
d, until = sys.argv[1], time.monotonic() + 0.3
if os.fork() == 0:
    while time.monotonic() < until:
        for target in ("evil", "../listed"):
            os.symlink(target, d + "/fresh")
            os.rename(d + "/fresh", d + "/name")
    os._exit(0)
while time.monotonic() < until:
    try:
        os.waitpid(os.posix_spawn(d + "/name", ["x", sys.argv[2]], {}), 0)
    except OSError:
        pass
os.wait()
"""


def renamed_onto_listed(here: Path, _: Path) -> list[str]:
    """A name that leads now to what is listed, now to what is not: hundreds of times each run."""
    elf(here)
    return [PYTHON, "-c", RACE, str(here)]


# --- strict mode: what a program hands on ---------------------------------------------------------


def by_loader(here: Path, _: Path) -> list[str]:
    return [str(LOADER), str(elf(here))]


def preload(here: Path, _: Path) -> list[str]:
    return ["env", f"LD_PRELOAD={library(here)}", "/bin/true"]


def audit_library(here: Path, _: Path) -> list[str]:
    return ["env", f"LD_AUDIT={library(here)}", "/bin/true"]


def ctypes_library(here: Path, _: Path) -> list[str]:
    return [PYTHON, "-c", f"import ctypes; ctypes.CDLL({str(library(here))!r})"]


def shell_file(here: Path, _: Path) -> list[str]:
    return ["sh", str(put(here / "x", SHELL_CODE, 0o644))]


def sourced(here: Path, _: Path) -> list[str]:
    return ["sh", "-c", f'set -- "$1"; . {put(here / "x", SHELL_CODE, 0o644)}', "sh"]


def redirected(here: Path, _: Path) -> list[str]:
    return ["sh", "-c", f'exec sh -s "$1" < {put(here / "x", SHELL_CODE, 0o644)}', "sh"]


def python_file(here: Path, _: Path) -> list[str]:
    return [PYTHON, str(put(here / "x.py", PYTHON_CODE, 0o644))]


def python_without_suffix(here: Path, _: Path) -> list[str]:
    return [PYTHON, str(put(here / "x", PYTHON_CODE, 0o644))]


def python_module(here: Path, _: Path) -> list[str]:
    put(here / "evilmod.py", PYTHON_CODE, 0o644)
    return ["env", f"PYTHONPATH={here}", PYTHON, "-m", "evilmod"]


def python_bytecode(here: Path, _: Path) -> list[str]:
    source = put(here / "x.py", PYTHON_CODE, 0o644)
    code = f"import py_compile; py_compile.compile({str(source)!r}, {str(here / 'x.bin')!r})"
    subprocess.run([PYTHON, "-c", code], check=True, timeout=30)
    return [PYTHON, str(here / "x.bin")]


def perl_file(here: Path, _: Path) -> list[str]:
    return ["perl", str(put(here / "x", PERL_CODE, 0o644))]


def awk_file(here: Path, _: Path) -> list[str]:
    code = 'BEGIN { printf "" > ENVIRON["MARK"]; close(ENVIRON["MARK"]) }\n'
    return ["awk", "-f", str(put(here / "x", code, 0o644))]


KERNEL_WAYS: tuple[Way, ...] = (
    unknown_elf, script, hard_link, symbolic_link, process_root, bind_mount, overlay, by_descriptor,
    by_proc_fd, unlinked_file, renamed_onto_listed,
)  # fmt: skip
STRICT_WAYS: tuple[Way, ...] = (
    by_loader, preload, audit_library, ctypes_library, shell_file, sourced, redirected, python_file,
    python_without_suffix, python_module, python_bytecode, perl_file, awk_file,
)  # fmt: skip
