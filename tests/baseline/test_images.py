"""Which images gate is told of, and that only what is there now is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgewarden.baseline.hashing import SETTLE_NS, Content, Stamp
from edgewarden.baseline.images import HANDS_ON, images, running
from edgewarden.baseline.paths import Paths
from edgewarden.judge import exec_rules
from edgewarden.wire.baseline import Baseline, Entry

ELF = Path("/bin/true").read_bytes()
LATER_NS = 1 << 62


def put(root: Path, path: str, tail: bytes) -> Entry:
    file = root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(ELF + tail)
    file.chmod(0o755)
    kind = "shell" if path.endswith("sh") else "program"
    return Entry(path, hashlib.sha256(ELF + tail).digest(), len(ELF + tail), kind)


def test_the_classes_are_the_judges() -> None:
    assert HANDS_ON == exec_rules.HANDS_ON


def test_parents_and_what_hands_on_code(tmp_path: Path) -> None:
    shell, parent = put(tmp_path, "/bin/dash", b"s"), put(tmp_path, "/usr/sbin/sshx", b"p")
    other = put(tmp_path, "/usr/bin/other", b"o")
    baseline = Baseline((shell, parent, other), {})
    told = dict(images(Paths(str(tmp_path)), baseline, {}, {parent.sha256}, now_ns=LATER_NS))
    assert told == {
        Stamp.of((tmp_path / "bin/dash").stat()): shell.sha256,
        Stamp.of((tmp_path / "usr/sbin/sshx").stat()): parent.sha256,
    }


def test_what_is_another_file_now_is_not_told(tmp_path: Path) -> None:
    changed, gone = put(tmp_path, "/bin/dash", b"s"), put(tmp_path, "/bin/zsh", b"z")
    put(tmp_path, "/bin/dash", b"another")
    (tmp_path / "bin/zsh").unlink()
    (tmp_path / "bin/zsh").symlink_to("dash")
    assert (
        list(
            images(Paths(str(tmp_path)), Baseline((changed, gone), {}), {}, set(), now_ns=LATER_NS)
        )
        == []
    )


def test_what_the_survey_knows_is_not_read_again(tmp_path: Path) -> None:
    shell = put(tmp_path, "/bin/dash", b"s")
    known = {Stamp.of((tmp_path / "bin/dash").stat()): Content("shell", shell.sha256, b"")}
    told = list(images(Paths(str(tmp_path)), Baseline((shell,), {}), known, set(), now_ns=LATER_NS))
    assert [digest for _, digest in told] == [shell.sha256]
    lied = {next(iter(known)): Content("shell", b"x" * 32, b"")}
    assert (
        list(images(Paths(str(tmp_path)), Baseline((shell,), {}), lied, set(), now_ns=LATER_NS))
        == []
    )


def test_what_may_change_once_more_under_the_same_stamp_is_not_told(tmp_path: Path) -> None:
    """Where times have whole seconds (ext4 with inodes of 128 bytes)."""
    shell = put(tmp_path, "/bin/dash", b"s")
    ctime_ns = (tmp_path / "bin/dash").stat().st_ctime_ns
    for age_ns, told in ((0, 0), (SETTLE_NS - 1, 0), (SETTLE_NS, 1)):
        found = images(
            Paths(str(tmp_path)), Baseline((shell,), {}), {}, set(), now_ns=ctime_ns + age_ns
        )
        assert len(list(found)) == told


def test_what_runs_already_is_told_once(tmp_path: Path) -> None:
    program, proc = tmp_path / "tool", tmp_path / "proc"
    program.write_bytes(ELF)
    program.chmod(0o755)
    for pid, image in (("7", program), ("8", program), ("9", tmp_path / "gone"), ("self", program)):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "exe").symlink_to(image)
    (proc / "10").mkdir()
    asked: list[str] = []
    far = f"{proc}/8/exe"

    def is_near(link: str) -> bool:
        asked.append(link)
        return link != far

    found = list(running({}, is_near, now_ns=LATER_NS, proc=str(proc)))
    assert found == [(Stamp.of(program.stat()), hashlib.sha256(ELF).digest())]
    assert far in asked
    assert list(running({}, lambda link: False, now_ns=LATER_NS, proc=str(proc))) == []
