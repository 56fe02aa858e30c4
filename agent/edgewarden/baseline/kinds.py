"""What a file is, by its first bytes and its name: the class that policies speak of.

What this decides, in order:

1. ELF that the kernel or the dynamic loader takes: ``loader`` (ld.so, which starts any ELF it is
   handed), ``library`` (a shared object), else ``program``; of programs those that run code they
   are handed are ``shell`` or ``interpreter``, by name: nothing in a file says so. Object files
   and kernel modules are none of these.
2. ``#!``: ``script``, whether it may be executed or not (``sh FILE`` does not ask).
3. By suffix, ``module``: what an interpreter reads as code.
4. Anything else is no program.

A name is a hint for people's rules, never for trust: content decides what may run.

    kind_of("/usr/bin/dash", head, executable=True) == "shell"
"""

from __future__ import annotations

import re
import struct

HEAD_BYTES = 4096
"""ELF header and program headers of what linkers make; a #! line is at most 255 bytes."""

# elf(5)
_ELF = b"\x7fELF"
_ET_EXEC, _ET_DYN = 2, 3
_PT_INTERP = 3
_AT = 16
"""Of e_type, behind e_ident."""
_FIELDS = {1: "HHIIIIIHHH", 2: "HHIQQQIHHH"}
"""e_type to e_phnum of ELFCLASS32 and ELFCLASS64; e_phoff is the fifth, e_phentsize the ninth."""
_ORDER = {1: "<", 2: ">"}

_LOADER = re.compile(
    r"ld-linux[^/]*\.so\.[0-9]+|ld-[0-9.]+\.so|ld-musl-[^/]*\.so\.1|ld(?:64)?\.so\.[0-9]+"
)
_SHARED = re.compile(r".*\.so(?:\.[0-9][^/]*)?")
_SHELL = re.compile(
    r"(?:ba|rba|da|a|z|rz|k|rk|mk|lk|pdk|fi|c|tc|ya|po|sa)?sh(?:[0-9][0-9.]*)?(?:-static)?"
    r"|static-sh|zsh[0-9]*-static|busybox(?:\.static)?|nu|pwsh"
)
_INTERPRETER = re.compile(
    r"python[0-9.]*(?:-dbg)?|pypy[0-9.]*|perl[0-9.]*(?:-[a-z0-9_]+-linux-gnu[a-z0-9]*)?|ruby[0-9.]*"
    r"|node(?:js)?|deno|bun|lua(?:jit)?[0-9.-]*(?:beta[0-9]*)?|tclsh[0-9.]*|wish[0-9.]*|expect"
    r"|php[0-9.]*|[gmn]awk|original-awk|java|guile[0-9.-]*|julia|R|erl(?:exec)?|beam\.smp"
    r"|ocaml(?:run)?|gdb|gforth|qemu-[a-z0-9_]+(?:-static)?|wine(?:64)?|mono(?:-sgen)?|dotnet"
    r"|micropython|g?make|g?m4|tcc|octave(?:-cli)?(?:-[0-9.]+)?|gnuplot(?:-[a-z0-9]+)?"
)
"""Not sed, ed, vi, less or tar: what they open is nearly always somebody's data, and a program that
they start for it is an exec of its own, which is judged (docs/policy.md, gap classes)."""
_MODULE = re.compile(
    r".+\.(?:py|pyc|pyo|pth|pm|pl|ph|al|ix|sh|bash|zsh|rb|lua|js|mjs|cjs|tcl|php|awk|jar|class)"
)
_SOURCED = frozenset(
    (
        "/etc/profile", "/etc/bash.bashrc", "/etc/zsh/zshrc", "/etc/zsh/zprofile",
        "/usr/lib/lsb/init-functions", "/usr/share/debconf/confmodule", "/root/.profile",
        "/root/.bashrc",
    )
)  # fmt: skip
"""Code without suffix, #! or executable bit that every shell or many packages read."""


def may_be_code(path: str, executable: bool) -> bool:
    """Whether the file is worth opening. Of a Debian's 115,000 files 20,000 are; an SD card
    reads 1,000 of them a second."""
    name = path.rpartition("/")[2]
    return executable or ".so" in name or bool(_MODULE.fullmatch(name)) or path in _SOURCED


def kind_of(path: str, head: bytes, *, executable: bool) -> str:
    """The class, of judge/exec_rules.py's CLASSES; "" for what is no program.

    Args:
        head: the first HEAD_BYTES bytes, fewer of a shorter file.
        executable: anybody may execute it, by its mode.
    """
    name = path.rpartition("/")[2]
    if head.startswith(_ELF):
        return _elf(name, head, executable)
    if head.startswith(b"#!"):
        return "script"
    return "module" if _MODULE.fullmatch(name) or path in _SOURCED else ""


def _elf(name: str, head: bytes, executable: bool) -> str:
    fields = _FIELDS.get(head[4]) if len(head) > 5 else None
    order = _ORDER.get(head[5]) if len(head) > 5 else None
    if fields is None or order is None:
        return ""
    form = struct.Struct(order + fields)
    if len(head) < _AT + form.size:
        return ""
    e_type, _, _, _, phoff, _, _, _, phentsize, phnum = form.unpack_from(head, _AT)
    if e_type not in (_ET_EXEC, _ET_DYN):
        return ""
    if _LOADER.fullmatch(name):
        return "loader"
    asks = _asks_for_loader(head, struct.Struct(order + "I"), phoff, phentsize, phnum)
    if e_type == _ET_DYN and (_SHARED.fullmatch(name) or not (asks or executable)):
        return "library"
    if _SHELL.fullmatch(name):
        return "shell"
    return "interpreter" if _INTERPRETER.fullmatch(name) else "program"


def _asks_for_loader(head: bytes, p_type: struct.Struct, phoff: int, size: int, count: int) -> bool:
    """Whether a program header is PT_INTERP, as far as the head shows."""
    for i in range(min(count, HEAD_BYTES // max(size, 32))):
        at = phoff + i * size
        if at + p_type.size > len(head):
            return False
        if p_type.unpack_from(head, at)[0] == _PT_INTERP:
            return True
    return False
