"""What a file is, by its first bytes and its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.baseline.kinds import kind_of, may_be_code
from edgewarden.judge.exec_rules import CLASSES
from tests.baseline.tree import elf


@pytest.mark.parametrize(
    ("path", "head", "executable", "kind"),
    [
        ("/usr/bin/ls", elf(), True, "program"),
        ("/usr/bin/ls", elf(), False, "program"),
        ("/usr/bin/old", elf(2, interp=False), True, "program"),
        ("/usr/bin/static-pie", elf(3, interp=False), True, "program"),
        ("/usr/bin/arm", elf(bits=32), True, "program"),
        ("/usr/bin/s390", elf(order=">"), True, "program"),
        ("/usr/bin/dash", elf(), True, "shell"),
        ("/usr/bin/sh", elf(), True, "shell"),
        ("/usr/bin/busybox", elf(2, interp=False), True, "shell"),
        ("/usr/lib/apt/methods/rsh", elf(), True, "program"),
        ("/usr/bin/ssh", elf(), True, "program"),
        ("/usr/bin/python3.11", elf(), True, "interpreter"),
        ("/usr/bin/perl5.36-x86_64-linux-gnu", elf(), True, "interpreter"),
        ("/usr/bin/mawk", elf(), True, "interpreter"),
        ("/usr/bin/make", elf(), True, "interpreter"),
        ("/usr/bin/m4", elf(), True, "interpreter"),
        ("/usr/bin/tcc", elf(), True, "interpreter"),
        ("/usr/bin/octave-cli-7.3.0", elf(), True, "interpreter"),
        ("/usr/bin/gnuplot-qt", elf(), True, "interpreter"),
        ("/usr/bin/cmake", elf(), True, "program"),
        ("/usr/bin/sed", elf(), True, "program"),
        ("/usr/bin/pythonize", elf(), True, "program"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", elf(), True, "library"),
        ("/usr/lib/x86_64-linux-gnu/libm.so.6", elf(interp=False), False, "library"),
        ("/usr/lib/python3/_x.cpython-311-x86_64.so", elf(interp=False), False, "library"),
        ("/usr/lib/odd-plugin", elf(interp=False), False, "library"),
        ("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", elf(interp=False), True, "loader"),
        ("/usr/lib/ld-linux-aarch64.so.1", elf(interp=False), True, "loader"),
        ("/usr/lib/ld-2.31.so", elf(interp=False), True, "loader"),
        ("/usr/lib/modules/6.1/x.ko", elf(1, interp=False), False, ""),
        ("/var/core", elf(4), False, ""),
        ("/usr/bin/script", b"#!/bin/sh\n", True, "script"),
        ("/usr/share/x/run.py", b"#!/usr/bin/python3\n", False, "script"),
        ("/usr/lib/python3/x.py", b"import os\n", False, "module"),
        ("/usr/lib/python3/__pycache__/x.cpython-311.pyc", b"\xa7\r\r\n", False, "module"),
        ("/usr/lib/python3/__init__.py", b"", False, "module"),
        ("/usr/share/perl5/X.pm", b"package X;", False, "module"),
        ("/etc/profile", b"# no suffix\n", False, "module"),
        ("/usr/share/doc/x/readme", b"text", True, ""),
        ("/usr/bin/cut", elf()[:20], True, ""),
        ("/usr/bin/cut", b"\x7fELF", True, ""),
        ("/usr/bin/odd", b"\x7fELF\x09\x09" + bytes(60), True, ""),
        ("/usr/bin/far", elf()[:64], True, "program"),
    ],
)  # fmt: skip
def test_a_file_is_what_its_head_says(path: str, head: bytes, executable: bool, kind: str) -> None:
    assert kind_of(path, head, executable=executable) == kind
    assert kind == "" or kind in CLASSES


@given(st.binary(max_size=300), st.booleans(), st.sampled_from(["/a/b", "/a/x.so", "/a/y.py"]))
def test_no_head_is_too_odd(tail: bytes, executable: bool, path: str) -> None:
    assert kind_of(path, b"\x7fELF" + tail, executable=executable) in ("", *CLASSES)
    assert kind_of(path, tail, executable=executable) in ("", *CLASSES)


def test_only_what_may_be_code_is_opened() -> None:
    assert may_be_code("/usr/bin/x", executable=True)
    assert may_be_code("/usr/lib/libx.so.1", executable=False)
    assert may_be_code("/usr/lib/x.py", executable=False)
    assert not may_be_code("/usr/share/doc/x/copyright", executable=False)
    assert not may_be_code("/usr/share/x.py/data", executable=False)
