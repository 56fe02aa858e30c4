"""Self-measurement: one byte of the code, of its compiled form, or one file more is seen."""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import os
import py_compile
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from edgewarden.trust import bytecode, measure
from edgewarden.trust.bytecode import compiles_to
from edgewarden.trust.measure import MATCH, SETTLED_NS, Measurer
from edgewarden.wire.manifest import files_digest, manifest_digest

SOURCE = '''"""A module."""

LIMIT = 0.0


def work(path, n=3):
    total = 0
    for item in path:
        try:
            total += int(item) if item in {"1", "2"} else n
        except ValueError:
            total -= 1
    return [total, lambda: LIMIT + 1.5, -0.0, (1, True, "x", b"y", None, ...)]
'''


AGENT = str(Path(measure.__file__).parents[2])
FLIP_ALL = """
import pathlib, resource, sys
from edgewarden.trust.bytecode import compiles_to
source, path = map(pathlib.Path, sys.argv[1:])
good = path.read_bytes()
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
print(2 * (len(good) - 16))
for at in range(16, len(good)):
    for bit in (0x01, 0x80):
        path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        if compiles_to(source, path, 0):
            print(at, bit)
"""
"""A process of its own: damaged marshal data asks for gigabytes, or takes the interpreter down."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package, compiled as an installer would."""
    root = tmp_path / "edgewarden"
    (root / "wire").mkdir(parents=True)
    for name in ("__init__.py", "main.py", "wire/__init__.py", "wire/cose.py"):
        (root / name).write_text(SOURCE)
        py_compile.compile(str(root / name), doraise=True)
    (root / "codes.toml").write_text("[EW-AGT-001]\n")
    return root


def measurer(package: Path, **more: object) -> Measurer:
    return Measurer((), (), package=package, **more)  # type: ignore[arg-type]


def take(package: Path) -> tuple[bytes, str]:
    measured, verdict = measurer(package).take()
    return measured["code"], verdict


def flip(path: Path, at: int, bit: int = 1) -> None:
    """Change one bit and put the times back: what an attacker does."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def compiled(package: Path, name: str = "wire/cose.py", level: str = "") -> Path:
    return Path(importlib.util.cache_from_source(str(package / name), optimization=level))


def test_the_digest_is_that_of_the_manifest(package: Path) -> None:
    names = ("__init__.py", "codes.toml", "main.py", "wire/__init__.py", "wire/cose.py")
    entries = [
        (f"edgewarden/{n}", hashlib.sha256((package / n).read_bytes()).digest()) for n in names
    ]
    assert take(package) == (manifest_digest(entries), MATCH)


def test_a_flipped_byte_of_source_changes_the_digest(package: Path) -> None:
    before, _ = take(package)
    flip(package / "wire" / "cose.py", 40)
    assert take(package)[0] != before


def test_a_flipped_byte_is_seen_by_a_measurer_that_knew_the_file(package: Path) -> None:
    """Same size, same modification time: the change time gives it away."""
    m = measurer(package)
    before = m.take()
    flip(package / "wire" / "cose.py", 40)
    assert m.take()[0]["code"] != before[0]["code"]
    flip(package / "wire" / "cose.py", 40)
    assert m.take() == before
    flip(compiled(package), 60)
    assert m.take()[1].startswith("differs: ")


@pytest.mark.parametrize(
    "name", ["extra.py", "extra.so", "wire/cose.pyc", "wire/cose.cpython-311-x86_64-linux-gnu.so",
             ".hidden", "__pycache__/extra.txt"],
)  # fmt: skip
def test_an_extra_file_changes_the_digest(package: Path, name: str) -> None:
    before, _ = take(package)
    (package / name).write_bytes(b"")
    assert take(package)[0] != before


def test_a_missing_or_renamed_file_changes_the_digest(package: Path) -> None:
    before, _ = take(package)
    (package / "main.py").rename(package / "niam.py")
    renamed, _ = take(package)
    (package / "niam.py").unlink()
    assert len({before, renamed, take(package)[0]}) == 3


def evil_package(at: Path) -> None:
    """A folder that Python imports in place of the module beside it, without any source."""
    at.mkdir()
    source = at / "__init__.py"
    source.write_text("EVIL = True\n")
    py_compile.compile(str(source), cfile=str(at / "__init__.pyc"), doraise=True)
    source.unlink()


def loads_evil(package: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(package.parent)!r}); "
         "import edgewarden.wire.cose as c; print(hasattr(c, 'EVIL'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip() == "True"


def test_a_sourceless_folder_that_shadows_a_module_changes_the_digest(package: Path) -> None:
    before, _ = take(package)
    assert not loads_evil(package)
    evil_package(package / "wire" / "cose")
    assert loads_evil(package)
    assert take(package)[0] != before


def test_a_linked_folder_that_shadows_a_module_changes_the_digest(
    package: Path, tmp_path: Path
) -> None:
    before, _ = take(package)
    evil_package(tmp_path / "elsewhere")
    (package / "wire" / "cose").symlink_to(tmp_path / "elsewhere")
    assert loads_evil(package)
    assert take(package)[0] != before


def test_a_file_name_that_is_not_utf_8_is_measured(package: Path) -> None:
    before, _ = take(package)
    Path(os.fsdecode(os.fsencode(package) + b"/caf\xe9.py")).write_text("x = 1\n")
    after, verdict = take(package)
    assert after != before
    assert verdict == MATCH


LATER_NS = 10 * SETTLED_NS


def later() -> int:
    """A clock that went on: nothing of what lies there is young."""
    return time.time_ns() + LATER_NS


def listings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen, real = list[object](), os.scandir
    monkeypatch.setattr(os, "scandir", lambda at: (seen.append(at), real(at))[1])
    return seen


def replaced_by_a_link(package: Path) -> None:
    """The same bytes at the same name, from elsewhere."""
    path = package / "wire" / "cose.py"
    path.rename(package.parent / "cose.py")
    path.symlink_to(package.parent / "cose.py")


def new_package(package: Path) -> None:
    """Another folder with the same files, times and all."""
    package.rename(package.with_name("old"))
    shutil.copytree(package.with_name("old"), package)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file added": lambda p: (p / "extra.py").write_text(""),
    "a file added below": lambda p: (p / "wire/__pycache__/extra.pyc").write_bytes(b""),
    "a folder added": lambda p: (p / "wire/cose").mkdir(),
    "a file renamed": lambda p: (p / "main.py").rename(p / "niam.py"),
    "a file gone": lambda p: (p / "main.py").unlink(),
    "a compiled file gone": lambda p: compiled(p).unlink(),
    "a byte of source": lambda p: flip(p / "wire/cose.py", 40),
    "a byte of a compiled file": lambda p: flip(compiled(p), 60),
    "a file of another folder": replaced_by_a_link,
    "another folder": new_package,
    "a link to a folder": lambda p: (p / "wire/link").symlink_to(p.parent),
    "a link to nowhere": lambda p: (p / "wire/link").symlink_to(p / "nowhere"),
    "other rights": lambda p: (p / "main.py").chmod(0o600),
}


@pytest.mark.parametrize("what", CHANGES)
def test_names_listed_once_are_asked_after_and_any_change_is_seen(
    package: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    m = measurer(package, wall_ns=later)
    before = m.take()
    listed = listings(monkeypatch)
    assert not m.moved()
    assert m.take() == before
    assert not listed
    CHANGES[what](package)
    assert m.moved()
    assert m.take() == measurer(package).take()
    assert not m.moved()
    for path in [*package.rglob("*.py"), *package.rglob("*.pyc")]:
        if path.exists() and not path.is_symlink():
            path.write_bytes(path.read_bytes() + b"#")
            assert m.moved(), path
            m.take()


def pieces(look: measure.Look, most: int) -> int:
    """How many there were, of at most so many."""
    return sum(1 for _ in zip(range(most), look, strict=False))


@pytest.mark.parametrize("taken", [0, 1, 2, 99], ids=lambda n: f"{n} pieces before")
@pytest.mark.parametrize("what", [None, *CHANGES])
def test_a_look_in_pieces_finds_what_a_look_at_once_does(
    package: Path, monkeypatch: pytest.MonkeyPatch, what: str | None, taken: int
) -> None:
    monkeypatch.setattr(measure, "_PIECE", 2)
    m = measurer(package, wall_ns=later)
    m.take()
    if what is not None:
        CHANGES[what](package)
    look = m.look()
    found = pieces(look, taken)
    assert found == min(taken, found)
    assert look.moved() is (what is not None)
    assert look.moved() is (what is not None), "asked twice it says the same"
    assert pieces(look, 1) == 0


def test_what_changes_behind_a_look_is_for_the_next_one(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is as old as its pieces: what was passed is passed, what lies ahead is seen."""
    monkeypatch.setattr(measure, "_PIECE", 1)
    m = measurer(package, wall_ns=later)
    m.take()
    look = m.look()
    pieces(look, 2)
    compiled(package).unlink()
    assert look.moved()


def test_a_look_raises_at_its_end_alone(package: Path) -> None:
    m = measurer(package, wall_ns=later)
    m.take()
    shutil.rmtree(package)
    look = m.look()
    assert list(look) == []
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            look.moved()


def test_nothing_was_taken_before_the_first_look(package: Path) -> None:
    assert measurer(package).look().moved()


def test_what_a_link_leads_to_is_looked_at(package: Path, tmp_path: Path) -> None:
    """A folder elsewhere that a link of the package brings in, and a file that comes to be."""
    evil_package(tmp_path / "elsewhere")
    (package / "wire/cose").symlink_to(tmp_path / "elsewhere")
    (package / "wire/late.py").symlink_to(tmp_path / "late.py")
    m = measurer(package, wall_ns=later)
    m.take()
    (tmp_path / "elsewhere/more.py").write_text("")
    assert m.moved()
    m.take()
    (tmp_path / "late.py").write_text("x = 1\n")
    assert m.moved()
    assert m.take() == measurer(package).take()


@pytest.mark.parametrize("clock", [time.time_ns, int], ids=["young files", "a clock of 1970"])
def test_a_young_package_is_listed_at_each_look(
    package: Path, monkeypatch: pytest.MonkeyPatch, clock: Callable[[], int]
) -> None:
    """A name added within the tick of the clock of a listing leaves the folder as it was."""
    (package / "new.py").write_text("")
    m = measurer(package, wall_ns=clock)
    m.take()
    listed = listings(monkeypatch)
    assert not m.moved()
    assert len(listed) == 4, "the package, wire, and a folder of compiled files in each"


def test_a_folder_that_moves_while_it_is_listed_is_listed_again(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its listing and the look at it, by a clock that was set back: nothing looks young."""
    real = measure._about

    def add(package: Path, names: str) -> Generator[None, None, tuple[bytes, int]]:
        (package / "wire" / "extra.py").touch()
        return real(package, names)

    m = measurer(package, wall_ns=later)
    with monkeypatch.context() as m2:
        m2.setattr(measure, "_about", add)
        m.take()
    assert m.moved()
    assert m.take() == measurer(package).take()


def test_every_bit_of_a_compiled_file_counts(package: Path) -> None:
    """Any change that still loads is named, but in what changes nothing: the file's own name, which
    only tracebacks show, and marshal's mark for sharing (0x80).

    0x01 turns instructions into specialised ones and fills their caches: equal by ``==``. From 3.12
    on the interpreter writes a fresh counter over the first cache entry when it loads the file.
    """
    path, source = compiled(package), package / "wire" / "cose.py"
    good = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FLIP_ALL, str(source), str(path)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": AGENT},
    )  # fmt: skip
    flips, *passed = done.stdout.splitlines()
    assert int(flips) == 2 * (len(good) - 16)
    named = good.index(str(source).encode())
    inside = range(named, named + len(str(source)))
    elsewhere = [(int(at), bit) for at, bit in map(str.split, passed) if int(at) not in inside]
    assert "128" in {bit for _, bit in elsewhere}
    counters = [at for at, bit in elsewhere if bit == "1"]
    assert all(good[at] == 0 for at in counters)
    assert not counters or sys.version_info >= (3, 12)
    assert len(elsewhere) < len(good) / 4


@pytest.mark.parametrize("part", ["co_stacksize", "co_exceptiontable", "co_flags", "co_filename"])
def test_parts_that_equality_overlooks_are_compared(package: Path, part: str) -> None:
    source, path = package / "wire" / "cose.py", compiled(package)
    data = path.read_bytes()
    code = marshal.loads(data[16:])
    inner = next(c for c in code.co_consts if hasattr(c, "co_code"))
    value = getattr(inner, part)
    other = value + 1 if isinstance(value, int) else value[:-1]
    changed = inner.replace(**{part: other})
    consts = tuple(changed if c is inner else c for c in code.co_consts)
    path.write_bytes(data[:16] + marshal.dumps(code.replace(co_consts=consts)))
    assert not compiles_to(source, path, 0)


def test_a_flipped_byte_of_compiled_code_is_named(package: Path) -> None:
    digest, _ = take(package)
    path = compiled(package)
    data = path.read_bytes()
    flip(path, data.index(b"total"))
    assert take(package) == (
        digest, f"differs: {path.name} is not compiled from edgewarden/wire/cose.py"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("was", "becomes"),
    [("1.5", "2.5"), ("-0.0", "0.0"), ("True", "1"), ('"2"', '"3"'), ("n=3", "n=4"),
     ("except ValueError", "except"), ("total -= 1", "total += 1")],
)  # fmt: skip
def test_code_compiled_from_other_source_is_named(package: Path, was: str, becomes: str) -> None:
    source = package / "wire" / "cose.py"
    status = source.stat()
    path = compiled(package)
    source.write_text(SOURCE.replace(was, becomes))
    py_compile.compile(str(source), doraise=True)
    evil = path.read_bytes()
    source.write_text(SOURCE)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    head = importlib.util.MAGIC_NUMBER + bytes(4) + int(status.st_mtime).to_bytes(4, "little")
    path.write_bytes(head + status.st_size.to_bytes(4, "little") + evil[16:])
    assert take(package)[1].startswith("differs: ")


def test_optimised_code_is_held_to_its_own_level(package: Path) -> None:
    source = package / "main.py"
    for level in (1, 2):
        py_compile.compile(str(source), doraise=True, optimize=level)
    assert take(package)[1] == MATCH
    shutil.copy(compiled(package, "main.py", "2"), compiled(package, "main.py", "1"))
    assert take(package)[1].startswith("differs: main")


def test_unchecked_hash_files_are_held_to_their_source(package: Path) -> None:
    """PEP 552: Python loads these whatever the source says."""
    source = package / "main.py"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), doraise=True, invalidation_mode=mode)
    assert take(package)[1] == MATCH
    source.write_text(SOURCE.replace("1.5", "2.5"))
    assert take(package)[1].startswith("differs: main")


def test_what_python_does_not_load_is_not_looked_at(package: Path) -> None:
    path = compiled(package)
    good = path.read_bytes()
    stale = good[:8] + bytes(4) + good[12:16] + b"garbage"
    other = b"\0\0\r\n" + good[4:16] + b"garbage"
    for data in (stale, other, b"", good[:15]):
        path.write_bytes(data)
        assert take(package)[1] == MATCH
    path.write_bytes(good[:16] + b"garbage")
    assert take(package)[1].startswith("differs: ")


def test_every_module_of_this_interpreter_compares_equal_to_itself(tmp_path: Path) -> None:
    """No false alarm: the standard library, compiled by one process, judged by another."""
    folder = Path(os.__file__).parent
    names = sorted(folder.glob("*.py"))[:60] + sorted((folder / "asyncio").glob("*.py"))
    work = tmp_path / "lib"
    work.mkdir()
    for number, name in enumerate(names):
        shutil.copy(name, work / f"m{number}.py")
    subprocess.run([sys.executable, "-I", "-m", "compileall", "-q", str(work)], check=True)
    sources = sorted(work.glob("*.py"))
    assert len(sources) > 60
    for source in sources:
        path = Path(importlib.util.cache_from_source(str(source)))
        assert path.exists()
        assert compiles_to(source, path, 0), source.name


def test_unchanged_files_are_neither_read_nor_compiled_again(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "large.bin").write_bytes(bytes(4 << 20))
    compiles: list[Path] = []

    def counting(source: Path, path: Path, level: int) -> bool:
        compiles.append(source)
        return bytecode.compiles_to(source, path, level)

    monkeypatch.setattr(measure, "compiles_to", counting)
    m = measurer(package, cmdline=package / "codes.toml")
    first = m.take()
    assert len(compiles) == 4
    compiles.clear()
    before = read_so_far()
    assert m.take() == first
    assert read_so_far() - before < 1 << 20
    assert compiles == []
    os.utime(package / "main.py")
    assert m.take()[0] == first[0]
    assert compiles == [package / "main.py"]


def read_so_far() -> int:
    """Bytes this process has read, by /proc/self/io."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_settings_policy_and_the_rest(package: Path, tmp_path: Path) -> None:
    a, b, none = tmp_path / "a.toml", tmp_path / "b.toml", tmp_path / "none.toml"
    a.write_text("a")
    b.write_text("b")
    m = Measurer((a, b), (none,), package=package, cmdline=none)
    measured, _ = m.take()
    assert measured["settings"] == files_digest([b"a", b"b"])
    assert measured["policy"] == b""
    assert measured["cmdline"] == b""
    assert len(measured["interpreter"]) == 32
    b.write_text("c")
    assert m.take()[0]["settings"] == files_digest([b"a", b"c"])
    assert Measurer((), (), package=package).take()[0]["settings"] == b""


def test_proc_files_are_read_every_time(package: Path) -> None:
    """They have no times that move, so nothing may be remembered of them."""
    cmdline = Path("/proc/self/stat")
    m = Measurer((), (), package=package, cmdline=cmdline)
    first = m.take()[0]["cmdline"]
    assert any(m.take()[0]["cmdline"] != first for _ in range(200))


def test_the_installed_agent_measures_itself() -> None:
    measured, verdict = Measurer((), ()).take()
    assert verdict == MATCH
    assert {len(d) for n, d in measured.items() if n in ("code", "interpreter", "cmdline")} == {32}
