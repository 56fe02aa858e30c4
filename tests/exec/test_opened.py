"""Strict mode without a kernel: what is data, what is code, and what is denied in doubt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.baseline.kinds import kind_of
from edgewarden.exec.digest import Digests
from edgewarden.exec.judged import Judged
from edgewarden.exec.opened import Opened, looks_like_code, named_like_interpreter
from edgewarden.judge.exec_rules import Rule
from edgewarden.kernel.fanotify import FAN_OPEN_PERM, UNTOLD, ExecEvent, Group, open_group
from tests.baseline import tree

RULE = Rule("code", True, (), (), ())


@pytest.mark.parametrize(
    ("head", "name", "code"),
    [
        (b"\x7fELF", "readings.txt", True),
        (b"#!/b", "notes", True),
        (b"impo", "x.PY", True),
        (b"....", "libx.so.6", True),
        (b"PK\x03\x04", "bundle.zip", True),
        (b"12.5", "readings.csv", False),
        (b"", "log", False),
    ],
)
def test_what_looks_like_code(head: bytes, name: str, code: bool) -> None:
    assert looks_like_code(head, name) is code


@pytest.mark.parametrize("name", ["python3.11", "perl", "dash", "ld-linux-x86-64.so.2", "busybox"])
def test_what_hands_on_by_its_name(name: str) -> None:
    assert named_like_interpreter(name)
    assert named_like_interpreter(f"{name} (deleted)")


HAND_ON = [
    "sh",
    "bash",
    "rbash",
    "bash-static",
    "dash",
    "zsh",
    "rzsh",
    "zsh5-static",
    "ksh",
    "ksh93",
    "rksh",
    "mksh",
    "lksh",
    "pdksh",
    "fish",
    "csh",
    "tcsh",
    "ash",
    "yash",
    "posh",
    "sash",
    "static-sh",
    "nu",
    "pwsh",
    "busybox.static",
    "python3.13-dbg",
    "pypy3",
    "perl5.40-x86_64-linux-gnu",
    "ruby3.1",
    "nodejs",
    "deno",
    "bun",
    "luajit-2.1.0-beta3",
    "lua5.4",
    "tclsh8.6",
    "wish8.6",
    "expect",
    "php8.2",
    "gawk",
    "mawk",
    "nawk",
    "original-awk",
    "java",
    "guile-3.0",
    "julia",
    "R",
    "erl",
    "erlexec",
    "beam.smp",
    "ocaml",
    "ocamlrun",
    "gdb",
    "gforth",
    "qemu-arm-static",
    "wine64",
    "mono",
    "mono-sgen",
    "dotnet",
    "micropython",
    "make",
    "gmake",
    "m4",
    "gm4",
    "tcc",
    "octave-cli-7.3.0",
    "gnuplot-qt",
]


@pytest.mark.parametrize("name", HAND_ON)
def test_what_a_policy_calls_an_interpreter_is_one_by_its_name_too(name: str) -> None:
    """Where no content is known the name is all there is: another list there would be a way in."""
    assert kind_of(f"/usr/bin/{name}", tree.elf(), executable=True) in ("interpreter", "shell")
    assert named_like_interpreter(name)


@pytest.mark.parametrize("name", ["cat", "nginx", "shred", "bashful-tool", "sed", "cmake"])
def test_what_does_not(name: str) -> None:
    assert not named_like_interpreter(name)


def judge(
    path: Path, program: bytes, rule: Rule | None = None, below: bool = False, loads: bool = False
) -> str:
    """ "" when it may be opened, else the reason."""
    opened = Opened(
        Digests(lambda: 1 << 62), lambda digest: "data", lambda pid: os.stat("/"),
        lambda name: program if name.endswith("/exe") else os.fsencode(path),
        lambda found, inode: below, lambda pid: loads,
    )  # fmt: skip
    opened.elsewhere = frozenset([os.stat("/").st_dev])
    one = Judged(ExecEvent(FAN_OPEN_PERM, os.open(path, os.O_RDONLY), 7, UNTOLD), "enforce", 0)
    try:
        done = opened.judge(one, 1 << 20, lambda known, digest, event: rule)
        return "" if done else one.reason
    finally:
        one.event.close()


def made(path: Path, content: bytes, mode: int = 0o644) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.needs("root")
def test_who_opens_what(tmp_path: Path) -> None:
    text, elf = made(tmp_path / "t", b"12.5"), made(tmp_path / "e", b"\x7fELF...")
    cat, python = b"/usr/bin/cat", b"/usr/bin/python3.11"
    assert judge(text, cat) == ""
    assert judge(elf, cat) == "unlisted"
    assert judge(text, python) == "unlisted"
    assert judge(text, python, below=True) == ""
    assert judge(elf, python, below=True) == "unlisted"
    assert judge(text, python, RULE) == ""
    assert judge(text, python, Rule("no", False, (), (), ())) == "ruled_out"


class Process:
    """One process whose image and name a test exchanges."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self.name = "cat"
        self.digests = Digests(lambda: 1 << 62)
        kinds = {b"s" * 32: "shell", b"c" * 32: "program"}
        self.opened = Opened(
            self.digests, lambda digest: kinds.get(digest, "data"), lambda pid: os.stat(self.image),
            lambda name: self.name.encode(), lambda found, inode: False, lambda pid: False,
        )  # fmt: skip

    def hands_on(self) -> bool:
        return self.opened.hands_on(7)


def test_what_a_process_runs_is_what_was_judged_when_it_started(tmp_path: Path) -> None:
    one = Process(made(tmp_path / "one", b"1"))
    assert one.hands_on(), "nobody saw it start"
    one.opened.runs(b"c" * 32, os.stat(one.image))
    assert not one.hands_on()
    one.image.chmod(0o755)  # moves ctime
    assert not one.hands_on()
    one.opened.runs(b"s" * 32, os.stat(one.image))
    assert one.hands_on(), "another content started from the same file"
    one.opened.forget()
    assert one.hands_on()


def test_what_one_calls_a_program_counts_for_him_alone(tmp_path: Path) -> None:
    """Neither does a harmless name make an interpreter harmless, nor the reverse."""
    one = Process(made(tmp_path / "one", b"1"))
    one.opened.runs(b"c" * 32, os.stat(one.image))
    one.name = "python3.11"
    assert one.hands_on()
    one.name = "cat"
    assert not one.hands_on()


def test_the_same_file_seen_through_an_overlay(tmp_path: Path) -> None:
    """Other numbers, the same times and size; two of one look are not told apart."""
    one, seen = Process(made(tmp_path / "one", b"1")), made(tmp_path / "seen", b"2")
    one.opened.runs(b"c" * 32, os.stat(seen))
    look = os.stat(seen)
    elsewhere = os.stat_result(
        (*look[:1], 77, 88, *look[3:10]),
        {f"st_{kind}time_ns": getattr(look, f"st_{kind}time_ns") for kind in "amc"},
    )
    one.opened = Opened(
        one.digests, lambda digest: {b"s" * 32: "shell"}.get(digest, "program"),
        lambda pid: elsewhere, lambda name: b"cat", lambda found, inode: False, lambda pid: False,
    )  # fmt: skip
    assert one.hands_on()
    one.opened.runs(b"c" * 32, look)
    assert not one.hands_on()
    one.opened.runs(b"s" * 32, look)
    assert one.hands_on()
    one.opened.runs(b"c" * 32, look)
    assert one.hands_on()


def test_of_what_is_not_known_it_counts_where_it_lies(tmp_path: Path) -> None:
    one = Process(made(tmp_path / "one", b"1"))
    assert one.hands_on()
    one.opened.elsewhere = frozenset([os.stat(one.image).st_dev])
    assert not one.hands_on()


@pytest.mark.needs("root")
def test_what_the_loader_opens_is_a_library_whatever_it_holds(tmp_path: Path) -> None:
    notes, cat = made(tmp_path / "notes", b"\0ELF"), b"/usr/bin/cat"
    assert judge(notes, cat) == ""
    assert judge(notes, cat, loads=True) == "unlisted"
    assert judge(notes, cat, loads=True, below=True) == "unlisted"
    assert judge(notes, cat, RULE, loads=True) == ""
    assert judge(notes, b"/bin/sh", below=True) == ""
    assert judge(notes, b"/bin/sh", loads=True, below=True) == "unlisted"
    assert judge(notes, b"/lib64/ld-linux-x86-64.so.2", below=True) == "unlisted"
    (tmp_path / "etc").mkdir()
    for name in ("ld.so.cache", "ld.so.preload"):
        own = made(tmp_path / "etc" / name, b"glibc-ld.so.cache1.1")
        assert judge(own, cat, loads=True) == ""
        own.chmod(0o666)
        assert judge(own, cat, loads=True) == "unlisted"


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_what_others_can_write_is_no_code(tmp_path: Path, mode: int) -> None:
    assert judge(made(tmp_path / "t", b"code", mode), b"/bin/sh", RULE) == "changeable"
    assert judge(made(tmp_path / "t", b"code", 0o644), b"/bin/sh", RULE) == ""


@pytest.mark.needs("root")
def test_a3_no_mark_of_a_mount_can_be_asked_for() -> None:
    """Any user walks around one with ``unshare -rm``: the parameter does not exist."""
    assert Group.mark.__kwdefaults__ == {"dir_fd": -100}
    group = open_group(permission=False)
    try:
        with pytest.raises(TypeError):
            group.mark("/", 1, kind=0x10)  # type: ignore[call-arg]
    finally:
        group.close()
