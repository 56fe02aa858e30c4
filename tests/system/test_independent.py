"""More ways, thought of without looking at escape_ways.py and escape_variants.py: 0 of them get
through in strict mode.

By what libraries load on somebody else's word (a character set's converter, Python's and Perl's
environment), by one inode under two names, by the kernel copying bytes between files, by a file
mounted over a listed one, by two files that change places atomically while one is started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.exec_world import NOBODY, World, loop_ext4, world
from tests.system.test_escapes import try_all

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount", "gcc", "perl")

Way = Callable[[Path, Path], list[str]]
PAYLOAD = Path("/usr/bin/touch")
CONSTRUCTOR = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    const char *mark = getenv("MARK");
    if (mark) close(open(mark, O_CREAT | O_WRONLY, 0600));
}
int gconv(void) { return 3; }
int gconv_init(void) { return 0; }
"""


@pytest.fixture
def disk(runs: int) -> Iterator[World]:
    with loop_ext4() as where, world(where) as made:
        made.life_s += 2 * runs
        os.chmod(where, 0o755)
        os.chmod(made.state, 0o755)
        yield made


def python(code: str, *words: str | Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, words)]


def foreign(folder: Path) -> Path:
    """An unlisted program that leaves the marker."""
    path = folder / "payload"
    path.write_bytes(PAYLOAD.read_bytes() + b"\0independent\0")
    path.chmod(0o755)
    return path


def converter_of_a_character_set(here: Path, _: Path) -> list[str]:
    (here / "c.c").write_text(CONSTRUCTOR)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", here / "evil.so", here / "c.c"], check=True)
    (here / "gconv-modules").write_text("module EVIL// INTERNAL evil 1\n")
    return ["env", f"GCONV_PATH={here}", "iconv", "-f", "EVIL", "-t", "UTF-8", "-o", "/dev/null"]


def customized_python(here: Path, _: Path) -> list[str]:
    (here / "sitecustomize.py").write_text("import os; open(os.environ['MARK'], 'w').close()\n")
    return ["env", f"PYTHONPATH={here}", sys.executable, "-c", "pass"]


def options_of_perl(here: Path, _: Path) -> list[str]:
    (here / "Wish.pm").write_text("open(my $f, '>', $ENV{MARK}); close $f; 1;\n")
    return ["env", f"PERL5LIB={here}", "PERL5OPT=-MWish", "perl", "-e", "1"]


SECOND_NAME = """
import os, subprocess, sys
here, listed, mark = sys.argv[1:]
first, second = here + "/first", here + "/second"
with open(first, "wb") as file:
    file.write(open(listed, "rb").read())
os.chmod(first, 0o755)
os.link(first, second)
for _ in range(3):
    try:
        subprocess.run([first, mark])
    except OSError:
        pass
with open(second, "r+b") as file, open(listed + ".foreign", "rb") as foreign:
    os.{how}
    file.truncate(os.fstat(foreign.fileno()).st_size)
try:
    subprocess.run([first, mark])
finally:
    os.unlink(first)
    os.unlink(second)
"""


def written_through_a_second_name(here: Path, outside: Path) -> list[str]:
    """What was started a moment ago is exchanged through its other name."""
    payload = foreign(here)
    copy = outside / "listed"
    copy.write_bytes((here.parent / "listed").read_bytes())
    (outside / "listed.foreign").write_bytes(payload.read_bytes())
    how = "pwrite(file.fileno(), foreign.read(), 0)"
    return python(SECOND_NAME.replace("{how}", how), here, copy)


def copied_by_the_kernel(here: Path, outside: Path) -> list[str]:
    """sendfile puts the foreign bytes where the listed ones were."""
    payload = foreign(here)
    copy = outside / "listed"
    copy.write_bytes((here.parent / "listed").read_bytes())
    (outside / "listed.foreign").write_bytes(payload.read_bytes())
    how = "sendfile(file.fileno(), foreign.fileno(), 0, 1 << 24)"
    return python(SECOND_NAME.replace("{how}", how), here, copy)


def mounted_over_what_is_listed(here: Path, _: Path) -> list[str]:
    payload, listed = foreign(here), here.parent / "listed"
    steps = f'mount --bind {payload} {listed} && exec {listed} "$@"'
    return ["unshare", "-rm", "sh", "-c", steps, "sh"]


EXCHANGE = """
import ctypes, os, sys, time
here, listed, mark = sys.argv[1:]
libc = ctypes.CDLL(None)
one, two = (here + "/one").encode(), (here + "/payload").encode()
if not os.path.exists(one):
    with open(one, "wb") as file:
        file.write(open(listed, "rb").read())
    os.chmod(one, 0o755)
until = time.monotonic() + 0.2
if os.fork() == 0:
    while time.monotonic() < until:
        libc.renameat2(-100, one, -100, two, 2)
    os._exit(0)
while time.monotonic() < until:
    try:
        os.waitpid(os.posix_spawn(one, ["one", mark], {}), 0)
    except OSError:
        pass
os.wait()
"""


def changing_places(here: Path, outside: Path) -> list[str]:
    """RENAME_EXCHANGE: both names always lead somewhere, thousands of times a second."""
    foreign(here)
    copy = outside / "listed"
    copy.write_bytes((here.parent / "listed").read_bytes())
    return python(EXCHANGE, here, copy)


WAYS = [
    converter_of_a_character_set, customized_python, options_of_perl,
    written_through_a_second_name, copied_by_the_kernel, mounted_over_what_is_listed,
    changing_places,
]  # fmt: skip


@pytest.mark.parametrize("uid", [0, NOBODY])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a7_independent_variants_do_not_get_through(
    disk: World, way: Way, uid: int, runs: int
) -> None:
    try_all(disk, way, uid, runs, strict=True)
