"""The identity folder written: one folder, swapped whole, and which of two counts.

What is in it, and how it is read, stands in trust/identity.py; what is put there, in service.py.

    state/identity/current -> identity-3/    what everybody reads
    state/identity/previous -> identity-2/   until the new certificate has carried a round trip
    state/identity/identity-2/previous       the one before, where that one had carried none, either
    state/identity/wanted                    why the next look should renew before it is due
    state/identity/pending.pem               the key of an enrolment that got no answer
    state/identity/grade                     of the last enrolment's key (ladder.py)

``current`` is a symlink that ``rename(2)`` replaces, so a power cut leaves the old identity or
the new one, never half of each: every file and folder is on the disk before the swap. A key made
for an enrolment that got no answer is used by the next try; it goes when the certificate made for
it is on the disk.

One enrolment or renewal at a time (``locked``). Blocks on the disk, raises HardwareFault EW-ID-006.

    with locked(state_dir): store(state_dir, signer, fields, cert_pem, ca_pem)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.trust.identity import CURRENT, FOLDER, SCHEMA, Identity, damaged, load
from edgewarden.trust.ladder import GRADES, Keys, OwnKey

PENDING = "pending.pem"
RECORDED = "grade"
PREVIOUS = "previous"
WANTED = "wanted"


def pending(state_dir: Path, keys: Keys) -> OwnKey | None:
    """The key of an enrolment that got no answer; None when there is none.

    Raises:
        TrustFault: EW-ID-003 when the kept key cannot be read, or as Keys.open.
        HardwareFault: its holder is gone.
    """
    path = state_dir / FOLDER / PENDING
    try:
        kept = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise damaged(f"{path.name}: {fault.strerror}") from fault
    return keys.open(kept, None)


def keep_pending(state_dir: Path, key: OwnKey) -> Path:
    """Keep a new key until its certificate has come; returns its file.

    Raises:
        HardwareFault: EW-ID-006 when the disk refuses.
    """
    folder = state_dir / FOLDER
    path, building = folder / PENDING, folder / f".{PENDING}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        building.unlink(missing_ok=True)
        _write(building, key.to_pem(), 0o600)
        building.rename(path)
        _sync_folder(folder)
        _sync_folder(state_dir)
    except OSError as fault:
        raise _not_stored(fault) from fault
    return path


def recorded_grade(state_dir: Path) -> str:
    """The grade of the last key that was enrolled here; "" when none was or it was forgotten."""
    try:
        grade = (state_dir / FOLDER / RECORDED).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    return grade if grade in GRADES else ""


def store(state_dir: Path, signer: OwnKey, identity_json: dict[str, object],
          cert_pem: str, ca_pem: str, keys: Keys | None = None) -> Identity:  # fmt: skip
    """Write a new identity folder and make it current, whole or not at all.

    Raises:
        HardwareFault: EW-ID-006 when the disk refuses; the old identity or the new one is current.
    """
    parent = state_dir / FOLDER
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = 1 + max(
            (int(p.name[9:]) for p in parent.glob("identity-*") if p.name[9:].isdigit()), default=0
        )
        fresh, building = parent / f"identity-{number}", parent / f".building-{number}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        _write(building / "key.pem", signer.to_pem(), 0o600)
        _write(building / "cert.pem", cert_pem.encode(), 0o644)
        _write(building / "ca.pem", ca_pem.encode(), 0o644)
        body = {"schema": SCHEMA, **identity_json}
        _write(building / "identity.json", json.dumps(body, indent=1).encode(), 0o644)
        _own_as(building, parent)
        _sync_folder(building)
        building.rename(fresh)
        _sync_folder(parent)
        if (parent / CURRENT).is_symlink():
            _keep_before(parent, os.readlink(parent / CURRENT))
        _point(parent, CURRENT, fresh.name)
        (parent / WANTED).unlink(missing_ok=True)
        # Only now: without the new identity on the disk this key is all that the certificate has.
        (parent / PENDING).unlink(missing_ok=True)
        _record_grade(parent, signer.grade)
        _sync_folder(parent)
    except OSError as fault:
        raise _not_stored(fault) from fault
    return load(state_dir, keys)


def _keep_before(parent: Path, current: str) -> None:
    """What is current is what came before. Where that has carried nothing yet, it keeps the name of
    the one before itself: the broker may take no other."""
    before = parent / PREVIOUS
    if before.is_symlink() and os.readlink(before) != current:
        _point(parent / current, PREVIOUS, os.readlink(before))
    _point(parent, PREVIOUS, current)


def _record_grade(parent: Path, grade: str) -> None:
    building = parent / f".{RECORDED}"
    building.unlink(missing_ok=True)
    _write(building, grade.encode(), 0o644)
    building.rename(parent / RECORDED)


@contextlib.contextmanager
def locked(state_dir: Path, *, make: bool = False) -> Iterator[None]:
    """One enrolment or renewal at a time.

    Args:
        make: the folder is made where there is none, for a first enrolment; and goes again when
            nothing was put there.

    Raises:
        OperatorFault: EW-ID-041, another is under way.
        HardwareFault: EW-ID-006, the folder cannot be locked.
    """
    made = [p for p in (state_dir / FOLDER, state_dir) if make and not p.exists()]
    try:
        if make:
            (state_dir / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state_dir / FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        if make:
            raise _not_stored(fault) from fault
        yield  # there is no identity: whoever needs one says so
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as fault:
        raise OperatorFault(
            "another enrolment or renewal of this gateway is under way",
            code="EW-ID-041",
            next_step="wait a minute, then see `edgewarden identity show`",
        ) from fault
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):  # it is not empty: something was enrolled
            for one in made:
                one.rmdir()


def prove(state_dir: Path, name: str) -> bool:
    """A certificate has carried a round trip: what was before it may go.

    Args:
        name: of its folder; when it is not the current one any more, nothing has been proven.

    Returns:
        Whether there was something to forget. False, too, while a renewal is under way: look again.
    """
    try:
        # Asked in each of link's steps: no Path is made for it.
        if not stat.S_ISLNK(os.lstat(f"{state_dir}/{FOLDER}/{PREVIOUS}").st_mode):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as fault:
        raise _not_stored(fault) from fault
    try:
        with locked(state_dir):
            return _prove(state_dir / FOLDER, name)
    except OperatorFault:
        return False


def _prove(parent: Path, name: str) -> bool:
    previous = parent / PREVIOUS
    try:
        if os.readlink(parent / CURRENT) != name:
            return False
        previous.unlink()
        _sync_folder(parent)
        current = os.readlink(parent / CURRENT)
        for folder in parent.glob("identity-*"):
            if folder.name != current:
                shutil.rmtree(folder)
    except OSError as fault:
        raise _not_stored(fault) from fault
    return True


def go_back(state_dir: Path) -> bool:
    """The broker does not take the current certificate: the one before becomes current again.

    Returns:
        Whether there was one. False, too, while a renewal is under way: look again.
    """
    try:
        with locked(state_dir):
            return _go_back(state_dir / FOLDER)
    except OperatorFault:
        return False


def _go_back(parent: Path) -> bool:
    try:
        before = os.readlink(parent / PREVIOUS)
        refused = os.readlink(parent / CURRENT)
    except OSError:
        return False
    try:
        _point(parent, CURRENT, before)
        _go_on_before(parent, before)
        if refused != before:  # else a power cut came between the two steps above
            shutil.rmtree(parent / refused, ignore_errors=True)
    except OSError as fault:
        raise _not_stored(fault) from fault
    return True


def _go_on_before(parent: Path, current: str) -> None:
    """Behind the one gone back to stands whatever stood behind it."""
    further = parent / current / PREVIOUS
    behind = os.readlink(further) if further.is_symlink() else ""
    if behind and (parent / behind).is_dir():  # it goes when something behind it is proven
        _point(parent, PREVIOUS, behind)
        return
    (parent / PREVIOUS).unlink()
    _sync_folder(parent)


def want(state_dir: Path, why: str) -> None:
    """Ask for renewal before it is due; said once, until it has happened."""
    with contextlib.suppress(OSError):
        (state_dir / FOLDER / WANTED).write_text(f"{why}\n")


def wanted(state_dir: Path) -> str:
    """Why somebody asked for renewal; "" when nobody did."""
    try:
        return (state_dir / FOLDER / WANTED).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _point(parent: Path, name: str, folder: str) -> None:
    fresh = parent / f".{name}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder)
    fresh.rename(parent / name)
    _sync_folder(parent)


def _not_stored(fault: OSError) -> HardwareFault:
    return HardwareFault(
        f"the identity cannot be stored: {fault}",
        code="EW-ID-006",
        next_step="free space or repair the state folder, then run `edgewarden enroll` again",
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        left = memoryview(data)
        while left:  # a disk that runs full takes a part and says so only when asked for the rest
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _own_as(folder: Path, example: Path) -> None:
    """Give folder and its files to whoever owns example: root may enrol for the agent's user.

    By descriptor, and nothing that is a link: that user owns the folder around it and may put
    something else in its place meanwhile.
    """
    owner = example.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != 0:
            raise PermissionError(errno.EPERM, "somebody put another folder there", str(folder))
        for name in os.listdir(fd):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=fd, follow_symlinks=False)
        os.fchown(fd, owner.st_uid, owner.st_gid)
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
