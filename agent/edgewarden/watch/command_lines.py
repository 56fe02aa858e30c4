"""What a program's path and command line say by themselves.

Pure text rules: which places are temporary, which belong to the system's packages, which programs
run other files, and which of their arguments is that file. A relative path belongs nowhere.

    script_of("/usr/bin/python3.11", ["python3", "-W", "error", "x.py", "-v"]) == "x.py"
    script_of("/lib/ld-linux-aarch64.so.1", ["ld.so", "--preload", "a.so", "/bin/ls"]) == "/bin/ls"
    script_of("/usr/bin/dash", ["sh", "-c", "date"]) == ""        inline: no file
"""

from __future__ import annotations

import re
from collections.abc import Mapping

DELETED = " (deleted)"
"""What the kernel appends to /proc/N/exe of an unlinked file (fs/d_path.c)."""

TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/user/", "/run/lock/", "/dev/mqueue/")  # noqa: S108  # what is looked for, not used
"""Places where programs are not installed; /run/user/UID is its user's own."""
SYSTEM = (
    "/usr/bin/", "/usr/sbin/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/", "/usr/libexec/",
    "/usr/share/", "/usr/games/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/etc/",
    "/opt/", "/var/lib/dpkg/",
)  # fmt: skip
"""Where Debian packages install what runs (Debian Policy 9.1, 10.4); /usr/local is not theirs."""

_SHELLS = ("sh", "bash", "dash", "ash", "rbash", "ksh", "mksh", "zsh", "yash", "posh")
_INLINE: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(_SHELLS, re.compile(r"-[a-zA-Z]*c")),
    "python": re.compile(r"-[bBdEhiIOPqsSuvVx]*[cm]"),
    "perl": re.compile(r"-[alnpswW0]*[eE]"),
    "ruby": re.compile(r"-[alnpswW0]*e"),
    "node": re.compile(r"-e|-p|--eval|--print"),
    "lua": re.compile(r"-e"),
    "php": re.compile(r"-r"),
}
"""Code in the command line itself, or a module by its name: there is no file to look at. Short
options may be bundled (sh -ec)."""
_WITH_VALUE: Mapping[str, tuple[str, ...]] = {
    "python": ("-W", "-X", "--check-hash-based-pycs"),
    "perl": ("-I", "-M", "-m"),
    "ruby": ("-I", "-r", "-C"),
    "node": ("-r", "--require", "--import"),
    **dict.fromkeys(_SHELLS, ("-o", "-O", "+o", "+O", "--rcfile", "--init-file")),
    "tclsh": (),
    "lua": ("-l",),
    "php": ("-d", "-c"),
    "ld": ("--library-path", "--inhibit-rpath", "--audit", "--preload", "--argv0",
           "--glibc-hwcaps-prepend", "--glibc-hwcaps-mask"),
}  # fmt: skip
"""Options whose value is the next word: sh(1), python(1), perl(1), ..., ld.so(8)."""
_LOADER_QUESTIONS = ("--verify", "--list", "--help", "--version", "--list-tunables",
                     "--list-diagnostics")  # fmt: skip


def is_temporary(path: str) -> str:
    """The temporary place that holds ``path``, "" none."""
    return next((place[:-1] for place in TEMPORARY if path.startswith(place)), "")


def in_system(path: str) -> bool:
    """Whether a path lies where packages install programs."""
    return path.startswith(SYSTEM) and "/../" not in path


def is_loader(program: str) -> bool:
    """ld.so, under the names that architectures and musl give it."""
    name = _base(program)
    return name.startswith(("ld-linux", "ld-musl", "ld.so", "ld64.so"))


def is_interpreter(program: str) -> bool:
    """Whether a program runs files that others wrote."""
    return _kind(program) in _WITH_VALUE


def script_of(program: str, arguments: list[str]) -> str:
    """The file that an interpreter or the loader was given, "" when it is none or got none."""
    if _base(program) == "busybox":  # many programs in one, by the name it is called by
        arguments = arguments[1:] if arguments and _base(arguments[0]) == "busybox" else arguments
        program = arguments[0].lstrip("-") if arguments else ""
    kind = _kind(program)
    if kind not in _WITH_VALUE:
        return ""
    skip = False
    for word in arguments[1:]:
        if skip:
            skip = False
        elif kind in _SHELLS and word.startswith("+"):  # an option taken back (sh(1), set)
            skip = word in _WITH_VALUE[kind]
        elif not word.startswith("-") or word == "-":
            return "" if word == "-" else word
        elif kind == "ld" and word in _LOADER_QUESTIONS:
            return ""
        elif word in _WITH_VALUE[kind]:
            skip = True
        elif kind in _INLINE and _INLINE[kind].match(word):
            return ""
    return ""


def _kind(program: str) -> str:
    if is_loader(program):
        return "ld"
    name = _base(program).removesuffix("-static").rstrip("0123456789.")
    return {"nodejs": "node", "luajit": "lua", "pypy": "python"}.get(name, name)


def _base(program: str) -> str:
    return program.removesuffix(DELETED).rpartition("/")[2]
