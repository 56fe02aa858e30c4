"""The gateway's identity on disk: one folder, swapped whole.

    state/identity/grade   of the last enrolment's key: a lower one is refused (ladder.py)
    state/identity/current -> identity-3/
        key.pem        0600, made here, never leaves: PKCS#8, sealed, or wrapped by a TPM
        cert.pem       leaf, then issuing CA
        ca.pem         the root, pinned at enrolment
        identity.json  device, tenant, grade, serial, end of validity, broker, verifier's key

    state/identity/previous -> identity-2/   until the new certificate has carried a round trip
    state/identity/wanted                    why the next look should renew before it is due

``current`` is a symlink that ``rename(2)`` replaces, so a power cut leaves the old identity or
the new one, never half of each: every file and folder is on the disk before the swap. A key made
for an enrolment that got no answer is kept as ``pending.pem`` and used by the next try; it goes
when the certificate made for it is on the disk.

Loading needs no X.509 parser: what the daemon must know of its certificate was written beside it at
enrolment.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgewarden.errors import HardwareFault, OperatorFault, TrustFault
from edgewarden.trust.ladder import GRADES, Keys, OwnKey

FOLDER = "identity"
CURRENT = "current"
PENDING = "pending.pem"
RECORDED = "grade"
PREVIOUS = "previous"
WANTED = "wanted"
SCHEMA = "edgewarden.identity/1"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this gateway is and whom it trusts.

    Attributes:
        folder: where key.pem, cert.pem and ca.pem lie (resolved, so a later swap does not mix
        pairs).
        not_after_utc: RFC 3339, seconds, ``Z``.
        verifier_key: COSE_Key of the fleet's verifier.
        keys: how this process reaches what holds the key.
    """

    folder: Path
    device: str
    tenant: str
    grade: str
    serial: str
    not_after_utc: str
    broker_host: str
    broker_port: int
    verifier_key: bytes
    keys: Keys = field(default_factory=Keys, compare=False, repr=False)
    service: str = ""
    """``https://host:port`` of the enrolment service; "" in a folder of an earlier version."""
    session: str = ""
    """What the broker calls this board: the certificate's CN; "" in a folder of an earlier version,
    where it is the device's id."""

    @property
    def key_path(self) -> Path:
        """The private key's file."""
        return self.folder / "key.pem"

    @property
    def cert_path(self) -> Path:
        """Leaf and issuing certificate."""
        return self.folder / "cert.pem"

    @property
    def ca_path(self) -> Path:
        """The pinned root."""
        return self.folder / "ca.pem"

    def signer(self) -> OwnKey:
        """The key, from whatever holds it; blocks, raises TrustFault or HardwareFault."""
        return self.keys.open(_read(self.key_path), self.grade)

    def root_pem(self) -> str:
        """The pinned root; raises TrustFault."""
        return _read(self.ca_path).decode("ascii", "replace")

    def x5chain(self) -> tuple[bytes, ...]:
        """DER of leaf and issuing certificate, leaf first; raises TrustFault."""
        chain = pem_to_der(_read(self.cert_path).decode("ascii", "replace"))
        if not chain:
            raise _damaged("cert.pem holds no certificate")
        return tuple(chain)


def load(state_dir: Path, keys: Keys | None = None) -> Identity:
    """Read the current identity.

    Args:
        keys: how this process reaches what holds its key; None for the usual places.

    Raises:
        TrustFault: EW-ID-004 when the gateway is not enrolled, EW-ID-005 when the folder is
        damaged or
            the key can be read by others.
    """
    link = state_dir / FOLDER / CURRENT
    if not os.path.lexists(link):
        raise TrustFault(
            "this gateway has no identity yet",
            code="EW-ID-004",
            next_step=(
                "get a token from the fleet and run `edgewarden enroll --ca URL --token-file F`"
            ),
        )
    folder = link.resolve()
    try:
        mode = (folder / "key.pem").stat().st_mode
        body = json.loads((folder / "identity.json").read_text())
    except (OSError, ValueError) as fault:
        raise _damaged(str(fault)) from fault
    if stat.S_IMODE(mode) & 0o077:
        raise TrustFault(
            f"{folder.name}/key.pem can be read by other users (mode {stat.S_IMODE(mode):04o})",
            code="EW-ID-005",
            next_step="treat the key as copied: revoke this identity and enrol again",
        )
    try:
        return Identity(
            folder=folder,
            device=str(body["device"]),
            tenant=str(body["tenant"]),
            grade=str(body["grade"]),
            serial=str(body["serial"]),
            not_after_utc=str(body["not_after_utc"]),
            broker_host=str(body["broker"]["host"]),
            broker_port=int(body["broker"]["port"]),
            verifier_key=bytes.fromhex(body["verifier_key"]),
            keys=keys or Keys(),
            service=str(body.get("service", "")),
            session=str(body.get("session", "")),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise _damaged(f"identity.json: {fault!r}") from fault


def replaced(state_dir: Path, identity: Identity) -> bool:
    """Whether another identity is current by now; an identity that is gone replaces nothing.

    One readlink: cheap enough for every second.
    """
    try:
        return os.readlink(state_dir / FOLDER / CURRENT) != identity.folder.name
    except OSError:
        return False


def pending(state_dir: Path, keys: Keys) -> OwnKey | None:
    """The key of an enrolment that got no answer; None when there is none.

    Raises:
        TrustFault: EW-ID-003 when the kept key cannot be read, or as Keys.open.
        HardwareFault: its holder is gone.
    """
    path = state_dir / FOLDER / PENDING
    return keys.open(_read(path), None) if path.exists() else None


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
            _point(parent, PREVIOUS, os.readlink(parent / CURRENT))
        _point(parent, CURRENT, fresh.name)
        (parent / WANTED).unlink(missing_ok=True)
        # Only now: without the new identity on the disk this key is all that the certificate has.
        (parent / PENDING).unlink(missing_ok=True)
        _record_grade(parent, signer.grade)
        _sync_folder(parent)
    except OSError as fault:
        raise _not_stored(fault) from fault
    return load(state_dir, keys)


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
    parent = state_dir / FOLDER
    if not (parent / PREVIOUS).is_symlink():
        return False
    try:
        with locked(state_dir):
            return _prove(parent, name)
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
        (parent / PREVIOUS).unlink()
        _sync_folder(parent)
        if refused != before:  # else a power cut came between the two steps above
            shutil.rmtree(parent / refused, ignore_errors=True)
    except OSError as fault:
        raise _not_stored(fault) from fault
    return True


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


def pem_to_der(text: str) -> list[bytes]:
    """Every certificate of a PEM text as DER; raises TrustFault when one is garbled."""
    out: list[bytes] = []
    for block in text.split(_BEGIN)[1:]:
        try:
            body = "".join(block.split(_END)[0].split())
            out.append(base64.b64decode(body, validate=True))
        except ValueError as fault:
            raise _damaged("cert.pem is garbled") from fault
    return out


def _not_stored(fault: OSError) -> HardwareFault:
    return HardwareFault(
        f"the identity cannot be stored: {fault}",
        code="EW-ID-006",
        next_step="free space or repair the state folder, then run `edgewarden enroll` again",
    )


def _damaged(why: str) -> TrustFault:
    return TrustFault(
        f"the identity folder is damaged: {why}",
        code="EW-ID-005",
        next_step="restore state/identity from a backup of this very device, or enrol again",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise _damaged(f"{path.name}: {fault.strerror}") from fault


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
