"""A private interpreter: the .venv's Python as files that nothing else on this machine maps.

Proportional set size divides a page by the number of processes that map it. The harness, the fleet
and the board run on the .venv's interpreter too, and whoever else works on this machine may: beside
them the gateway's figures would look better than on a gateway (seen: 4.7 instead of 6.8 MB). So the
measured processes, and only they, run on byte-for-byte copies of

    bin/python3        the interpreter (a venv made with --copies)
    site-packages/     the run-time dependencies, extension modules included
    dynload/           the standard library's extension modules   PYTHONPATH
    lib/               libssl, libcrypto, libsqlite3, ...         LD_LIBRARY_PATH

libc, libm and the loader stay the system's: on any machine a dozen other processes map those. What
gate, guard and link share with one another stays shared, as it is in service.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("mypy", "ruff", "pip", "hypothesis", "grimp", "setuptools", "_pytest", "pygments", "rich")
"""Heavy packages of the developer's that no process of the gateway imports: not copied."""
SHARED_BY_ALL = ("libc.so", "libm.so", "ld-linux", "libpthread.so", "libdl.so")
_PROBE = (
    "import ssl, sqlite3, ctypes, hashlib, bz2, lzma, zlib, json, asyncio;"
    "import cryptography.hazmat.primitives.asymmetric.ec;"
    "print(*{l.split()[-1] for l in open('/proc/self/maps') if '.so' in l}, sep='\\n')"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter and what it needs in its environment to stay private."""

    python: Path
    environment: dict[str, str]


def build(folder: Path) -> Interpreter:
    """Copy everything into folder (about 90 MB, two seconds)."""
    venv = [sys.executable, "-m", "venv", "--copies", "--without-pip", str(folder)]
    subprocess.run(venv, check=True, stdin=subprocess.DEVNULL)
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    target = folder / "lib" / name / "site-packages"
    shutil.rmtree(target)
    shutil.copytree(sysconfig.get_paths()["purelib"], target, ignore=_tools, symlinks=True)
    python = folder / "bin" / "python3"
    dynload, lib = folder / "dynload", folder / "own-lib"
    shutil.copytree(sysconfig.get_config_var("DESTSHARED"), dynload)
    lib.mkdir()
    probe = subprocess.run(
        [python, "-c", _PROBE], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    for path in map(Path, probe.stdout.split()):
        ours = path.is_relative_to(folder) or "lib-dynload" in path.parts
        if not ours and not path.name.startswith(SHARED_BY_ALL):
            shutil.copy(path, lib / path.name)
    return Interpreter(python, {"LD_LIBRARY_PATH": str(lib), "PYTHONPATH": str(dynload)})


def environment(interpreter: Interpreter | None) -> dict[str, str]:
    """Our environment without what would lead Python astray, with the interpreter's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
    return kept | (interpreter.environment if interpreter else {})


def _tools(_folder: str, names: list[str]) -> set[str]:
    return {n for n in names if n.startswith(TOOLS) or "__mypyc" in n}
