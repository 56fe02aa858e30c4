"""Certificates and keys above the gateways' take turns, and no gateway is visited.

What changes             what a gateway sees of it
issuing certificate      another certificate between its own and the root, from its next renewal
servers' certificates    nothing: same names, same root
verifier's key           challenges it refuses; it asks for renewal by itself (enrol/care.py), and
                         the answer names the new key
root                     two roots in its next renewal's answer, later one again

A root takes three steps, each of which leaves everything working for as long as you like:

    begin    a new root signs the issuing key a second time; both roots are believed and handed out;
             servers still show the chain to the old one
    switch   servers and new certificates show the chain to the new root; both are still believed.
             Wants: every gateway renewed since ``begin``, so that it knows the new root
    finish   the old root is believed no more. Wants: every gateway renewed since ``switch``

``switch`` and ``finish`` refuse by name while a gateway would be cut off. The old root's key is
needed for nothing of this, so that a lost one can be replaced as well.

Each file is replaced whole; a step that was interrupted is done again. `serve` and the
broker read these files when they start (Mosquitto 2.0.11 reads certificates again at SIGHUP, but
not the roots it believes: seen): the caller says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.enrol.service import MAX_ROOTS
from edgewarden.errors import OperatorFault, TrustFault, WireRefusal
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.references import set_id
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.folder import ALSO, FleetFolder, new_key
from edgewarden_fleet.store import references
from edgewarden_fleet.store.references import StoredSet
from edgewarden_fleet.store.registry import RETIRED
from edgewarden_fleet.store.schema import transaction
from edgewarden_fleet.verify.references import believe, sign

STATE = "ca/rollover.json"
HANDED_OUT = "ca/handed-out.json"
"""What `serve` gives to gateways that renew, and since when: it reads files when it starts only."""
NEXT_ROOT, NEXT_ROOT_KEY = "ca/next-root.pem", "ca/next-root-key.pem"
NEXT_ISSUING = "ca/next-issuing.pem"
CHAINS = ("broker/server.pem", "enroll/server.pem", "verifier/client.pem")
"""Leaf and issuing certificate, as our own servers and client show them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the change of roots stands.

    Attributes:
        step: ``""`` (none under way), ``begun`` or ``switched``.
        old: SHA-256 of the root that goes, hex.
    """

    step: str
    since_utc_s: float
    old: str


class Rollover:
    """See the module. Every method raises OperatorFault (EW-SET-0xx) or PermissionError."""

    def __init__(self, folder: FleetFolder, now_utc_s: float) -> None:
        self._folder = folder
        self._now = now_utc_s
        self._settings = folder.settings()

    def progress(self) -> Progress:
        """Where the change of roots stands."""
        path = self._folder.path / STATE
        if not path.exists():
            return Progress("", 0.0, "")
        body = json.loads(path.read_text())
        return Progress(str(body["step"]), float(body["since_utc_s"]), str(body["old"]))

    def behind(self, db: sqlite3.Connection) -> list[str]:
        """Gateways that have not renewed since `serve` hands out what the last step made.

        Everybody, while it hands out something else: a renewal that came between the step and the
        restart of `serve` brought the gateway nothing.
        """
        since = max(self.progress().since_utc_s, _handed_out_since(self._folder))
        rows = db.execute(
            "SELECT device, certificate FROM device WHERE revoked_utc_s IS NULL ORDER BY device"
        )
        return [
            row["device"]
            for row in rows
            if RETIRED not in row["device"] and _made_utc_s(row["certificate"]) < since
        ]

    # --- the root -----------------------------------------------------------------------------

    def begin(self) -> x509.Certificate:
        """Make a root beside the present one; returns it."""
        if self.progress().step:
            raise _cannot("a change of roots is under way", "see `edgewarden-fleet ca show`")
        _check_count(len(self._folder.roots()) + 1)
        key, issuing = new_key(), self._folder.issuing()
        root = Authority(certificates.make_root(key, self._settings.tenant, self._now), key)
        again = certificates.make_issuing(root, issuing.key, self._settings.tenant, self._now)
        self._put(NEXT_ROOT_KEY, FileSigner(key).to_pem().decode(), 0o600)
        self._put(NEXT_ROOT, certificates.pem(root.certificate))
        self._put(NEXT_ISSUING, certificates.pem(again))
        old = self._folder.root()
        self._believe([*self._folder.roots(), root.certificate])
        self._set("begun", _name(old))
        return root.certificate

    def switch(self, db: sqlite3.Connection, *, force: bool = False) -> None:
        """Show the chain to the new root."""
        self._want("begun", db, force)
        new = self._certificate(NEXT_ROOT)
        others = [root for root in self._folder.roots() if root != new]
        issuing = (self._folder.path / NEXT_ISSUING).read_text()
        self._put("ca/issuing.pem", issuing)
        for name in CHAINS:
            self._put(name, _leaf(self._folder.path / name) + issuing)
        every = "".join(map(certificates.pem, [*others, new]))
        self._put("broker/ca.pem", every)
        self._put(ALSO, every)
        self._put("ca/root.pem", certificates.pem(new))
        next_key = self._folder.path / NEXT_ROOT_KEY
        if next_key.exists():  # not when this is done again after a power cut
            os.replace(next_key, self._folder.path / "ca/root-key.pem")
        self._believe([new, *others])
        self._set("switched", self.progress().old)

    def finish(self, db: sqlite3.Connection, *, force: bool = False) -> None:
        """Believe the old root no more."""
        self._want("switched", db, force)
        old = self.progress().old
        self._believe([root for root in self._folder.roots() if _name(root) != old])
        for name in (STATE, NEXT_ROOT, NEXT_ISSUING):
            (self._folder.path / name).unlink(missing_ok=True)

    def trust(self, roots: list[x509.Certificate]) -> None:
        """Believe another CA's roots as well, from now on."""
        for root in roots:
            if not _is_ca(root):
                raise _cannot(
                    f"{root.subject.rfc4514_string()} is no CA, and no gateway would believe it",
                    "give the certificate of the CA's root, not one that it signed",
                )
        have = self._folder.roots()
        every = [*have, *(root for root in roots if root not in have)]
        _check_count(len(every))
        self._believe(every)

    # --- the others ---------------------------------------------------------------------------

    def issuing(self, root_key: Path) -> x509.Certificate:
        """Another issuing key and certificate; the one before is kept aside."""
        if self.progress().step:
            raise _cannot("a change of roots is under way", "finish it first")
        key = certificates.load_private_key(root_key.read_bytes())
        root = Authority(self._folder.root(), key)
        if certificates.key_tag(key) != _tag(root.certificate):
            raise _cannot(f"{root_key} is not this root's key", "give the key that `init` made")
        fresh = new_key()
        made = certificates.make_issuing(root, fresh, self._settings.tenant, self._now)
        before = self._folder.issuing().certificate
        aside = f"ca/issuing-until-{before.not_valid_after_utc:%Y%m%d}-{before.serial_number:x}"
        for name in ("issuing.pem", "issuing-key.pem"):
            data = (self._folder.path / "ca" / name).read_text()
            self._put(f"{aside[:60]}{'-key' if 'key' in name else ''}.pem", data, 0o600)
        # Key first: a certificate without its key signs nothing, a key without its certificate
        # would sign what nobody believes.
        self._put("ca/issuing-key.pem", FileSigner(fresh).to_pem().decode(), 0o600)
        self._put("ca/issuing.pem", certificates.pem(made))
        return made

    def servers(self) -> None:
        """Other keys and certificates for the broker, the enrolment service and our own client."""
        issuing = self._folder.issuing()
        s = self._settings
        makers: dict[str, Callable[[ec.EllipticCurvePublicKey], x509.Certificate]] = {
            "broker/server": lambda key: certificates.make_server(
                issuing, key, [s.broker.host], self._now
            ),
            "enroll/server": lambda key: certificates.make_server(
                issuing, key, [s.enroll.host], self._now
            ),
            "verifier/client": lambda key: certificates.make_client(
                issuing, key, s.tenant, self._now
            ),
        }
        for name, make in makers.items():
            key = new_key()
            chain = certificates.pem(make(key.public_key())) + certificates.pem(issuing.certificate)
            self._put(f"{name}-key.pem", FileSigner(key).to_pem().decode(), 0o600)
            self._put(f"{name}.pem", chain)

    def verifier(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Another key that signs challenges, results and reference sets; the one before is gone.

        Returns:
            Reference sets that were signed again, and those that could not: nobody can say any more
            that the lost key had signed them.
        """
        signer = FileSigner.generate()
        try:
            before = self._folder.verifier().public_key()
        except (OperatorFault, TrustFault):
            before = b""
        kept, lost = _signed_again(db, before, self._settings.tenant, signer)
        with transaction(db):
            for data, one in kept:
                references.add(db, data, one.sources, one.added_utc_s)
        self._put("verifier/key.pem", signer.to_pem().decode(), 0o600)
        return len(kept), lost

    # --- files --------------------------------------------------------------------------------

    def _believe(self, roots: list[x509.Certificate]) -> None:
        """Roots for gateways, verifier and broker."""
        bundle = "".join(map(certificates.pem, roots))
        self._put("broker/ca.pem", bundle)
        rest = "".join(map(certificates.pem, roots[1:]))
        if rest:
            self._put(ALSO, rest)
        else:
            (self._folder.path / ALSO).unlink(missing_ok=True)

    def _want(self, step: str, db: sqlite3.Connection, force: bool) -> None:
        if self.progress().step != step:
            raise _cannot(
                f"this step comes after {step!r}, and the state is"
                f" {self.progress().step or 'none under way'!r}",
                "see `edgewarden-fleet ca show`",
            )
        behind = self.behind(db)
        if behind and not force:
            some = ", ".join(behind[:5]) + (" ..." if len(behind) > 5 else "")
            raise _cannot(
                f"{len(behind)} gateways have not renewed since and would be cut off: {some}",
                "wait for them, `revoke` or `replace` those that are gone, or add --force",
            )

    def _set(self, step: str, old: str) -> None:
        self._put(STATE, json.dumps({"step": step, "since_utc_s": self._now, "old": old}))

    def _certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self._folder.path / name).read_bytes())

    def _put(self, name: str, text: str, mode: int = 0o644) -> None:
        """Replace a file whole; who may read it is who could before."""
        path = self._folder.path / name
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            if path.exists():
                owner = path.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fchmod(fd, mode)
            os.fsync(fd)
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _signed_again(
    db: sqlite3.Connection, cose_key: bytes, tenant: str, signer: FileSigner
) -> tuple[list[tuple[bytes, StoredSet]], int]:
    """Sets that hold under the old key, signed with the new one; how many do not hold."""
    names: dict[bytes, bytes] = {}
    kept: list[tuple[bytes, StoredSet]] = []
    lost = 0
    for stored in references.every(db):
        try:
            reference = believe(stored.data, cose_key, tenant)
        except WireRefusal:
            lost += 1
            continue
        replaces = names.get(reference.replaces, reference.replaces)
        data = sign(replace(reference, replaces=replaces), signer)
        names[stored.set_id] = set_id(data)
        kept.append((data, stored))
    return kept, lost


def note_handed_out(folder: FleetFolder, now_utc_s: float) -> None:
    """`serve` has read the folder and hands out what stands there from now on."""
    name = _what_is_handed_out(folder)
    if _read_handed_out(folder)[0] != name:
        since = math.floor(now_utc_s)  # as a certificate says when it was made
        body = json.dumps({"what": name, "since_utc_s": since})
        Rollover(folder, now_utc_s)._put(HANDED_OUT, body)


def _handed_out_since(folder: FleetFolder) -> float:
    name, since = _read_handed_out(folder)
    return since if name == _what_is_handed_out(folder) else math.inf


def _read_handed_out(folder: FleetFolder) -> tuple[str, float]:
    try:
        body = json.loads((folder.path / HANDED_OUT).read_text())
        return str(body["what"]), float(body["since_utc_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", math.inf


def _what_is_handed_out(folder: FleetFolder) -> str:
    """Roots and issuing certificate, as one name."""
    parts = [*sorted(map(certificates.der, folder.roots())),
             certificates.der(folder.issuing().certificate)]  # fmt: skip
    return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest()


def _leaf(path: Path) -> str:
    return certificates.pem(x509.load_pem_x509_certificates(path.read_bytes())[0])


def _name(root: x509.Certificate) -> str:
    return hashlib.sha256(certificates.der(root)).hexdigest()


def _tag(certificate: x509.Certificate) -> str:
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return found.value.digest[:4].hex()


def _made_utc_s(pem: str) -> float:
    begins = x509.load_pem_x509_certificate(pem.encode()).not_valid_before_utc
    return (begins + certificates.BACKDATE).timestamp()


def _is_ca(root: x509.Certificate) -> bool:
    try:
        return root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False


def _check_count(roots: int) -> None:
    """A gateway refuses an answer with more (enrol/service.py), for good."""
    if roots > MAX_ROOTS:
        raise _cannot(
            f"{roots} roots would be believed, and gateways take at most {MAX_ROOTS}",
            f"take those that are not needed any more out of {ALSO}",
        )


def _cannot(why: str, next_step: str) -> OperatorFault:
    return OperatorFault(why, code="EW-SET-034", next_step=next_step)
