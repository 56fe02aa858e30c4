"""The fleet's folder: made whole or not at all, never overwritten.

    DIR/                    0711: the broker's user must be able to pass through
        fleet.toml          settings
        ca/                 0700  root.pem root-key.pem issuing.pem issuing-key.pem
        broker/             0711  mosquitto.conf acl ca.pem server.pem server-key.pem data/
        enroll/             0700  server.pem server-key.pem
        verifier/           0700  key.pem (signs challenges and results) client.pem client-key.pem
                                  continuity.key (makes continuity tokens)
        store/              0700  fleet.db

Keys are 0600. The broker's key and data folder belong to the user the broker becomes. root-key.pem
is needed only to make another issuing certificate: move it off this machine.

Rules, in order: DIR must not exist or be empty; everything is written beside it, synced, then
renamed into place.

    create(Path("fleet"), settings, now_utc_s=time.time(), broker_user="auto")
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.errors import OperatorFault
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.tls import TLS12_CIPHERS
from edgewarden_fleet.ca import broker, certificates, settings
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.settings import FleetSettings

ALSO = "ca/also.pem"
"""Further roots, while one takes the place of another (ca/rollover.py)."""
MOSQUITTO = "mosquitto"
"""The account Debian's package makes."""
CONTINUITY_KEY = "continuity.key"
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class FleetFolder:
    """Paths and loaders of one fleet folder; nothing is read until asked for."""

    path: Path

    @property
    def database(self) -> Path:
        """The embedded store."""
        return self.path / "store" / "fleet.db"

    @property
    def mosquitto_conf(self) -> Path:
        """What to start the broker with."""
        return self.path / "broker" / "mosquitto.conf"

    def settings(self) -> FleetSettings:
        """fleet.toml; raises OperatorFault."""
        self.check()
        return settings.read(self.path / "fleet.toml")

    def root(self) -> x509.Certificate:
        """The root certificate."""
        return x509.load_pem_x509_certificate(self._read("ca/root.pem"))

    def roots(self) -> list[x509.Certificate]:
        """Every root that gateways and verifier believe; the first is what tokens name."""
        also = self.path / ALSO
        more = x509.load_pem_x509_certificates(also.read_bytes()) if also.exists() else []
        return [self.root(), *more]

    def issuing(self) -> Authority:
        """Issuing certificate and key."""
        certificate = x509.load_pem_x509_certificate(self._read("ca/issuing.pem"))
        return Authority(
            certificate, certificates.load_private_key(self._read("ca/issuing-key.pem"))
        )

    def verifier(self) -> FileSigner:
        """The key that signs challenges and results."""
        return FileSigner.from_pem(self._read("verifier/key.pem"))

    def continuity_secret(self) -> bytes:
        """What continuity tokens are made with; made here when a folder lacks it."""
        path = self.path / "verifier" / CONTINUITY_KEY
        if not path.exists():
            building = path.with_name(f".{CONTINUITY_KEY}")
            building.unlink(missing_ok=True)
            _put(building, secrets.token_hex(SECRET_BYTES), 0o600)
            building.rename(path)
            _sync(path.parent)
        try:
            secret = bytes.fromhex(self._read(f"verifier/{CONTINUITY_KEY}").decode("ascii"))
        except ValueError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise OperatorFault(
                f"{path} is not {SECRET_BYTES} bytes in hex",
                code="EW-SET-021",
                next_step="restore it from a backup of the fleet folder, or delete it: every"
                " gateway's present state is then taken as its true one, once",
            )
        return secret

    def client_context(self) -> ssl.SSLContext:
        """TLS context of the fleet's own broker session."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(TLS12_CIPHERS)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata="".join(map(certificates.pem, self.roots())))
        context.load_cert_chain(
            self.path / "verifier/client.pem", self.path / "verifier/client-key.pem"
        )
        return context

    def enroll_context(self) -> ssl.SSLContext:
        """TLS context of the enrolment service."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(TLS12_CIPHERS)
        context.load_cert_chain(
            self.path / "enroll/server.pem", self.path / "enroll/server-key.pem"
        )
        return context

    def check(self) -> None:
        """Raise OperatorFault unless this is a fleet folder."""
        if not (self.path / "fleet.toml").is_file():
            raise OperatorFault(
                f"{self.path} is not a fleet folder (no fleet.toml)",
                code="EW-SET-021",
                next_step=f"make one: `edgewarden-fleet init {self.path}`, or name it with --dir",
            )

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except PermissionError:
            raise
        except OSError as fault:
            raise OperatorFault(
                f"{self.path / name}: {fault.strerror}",
                code="EW-SET-021",
                next_step="restore it from a backup of the fleet folder",
            ) from fault


def create(
    path: Path, wanted: FleetSettings, now_utc_s: float, broker_user: str = "auto"
) -> tuple[FleetFolder, str]:
    """Make a fleet folder.

    Args:
        path: where; must not exist, or be an empty folder.
        wanted: what becomes fleet.toml.
        now_utc_s: start of every certificate's life.
        broker_user: whom a broker started by root becomes; ``auto``: mosquitto where it exists and
        can
            reach the folder, else whoever runs this.

    Returns:
        The folder and the broker's user.

    Raises:
        OperatorFault: EW-SET-022 when something is there already or cannot be written.
    """
    path = path.absolute()
    user = choose_broker_user(path) if broker_user == "auto" else broker_user
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise _cannot(
            f"{path} exists and is not empty", "choose another folder; nothing was changed"
        )
    building = path.with_name(f".{path.name}.building-{os.getpid()}")
    try:
        building.mkdir(mode=0o711, parents=True)
        try:
            _fill(building, path, wanted, now_utc_s, user)
            _sync_tree(building)
            building.rename(path)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        _sync(path.parent)
    except (OSError, KeyError) as fault:
        raise _cannot(f"{path}: {fault}", "check the path, its owner and the free space") from fault
    return FleetFolder(path), user


def choose_broker_user(path: Path) -> str:
    """mosquitto, where it exists, we are root and it can pass through every parent; else
    ourselves."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() != 0:
        return me
    try:
        account = pwd.getpwnam(MOSQUITTO)
    except KeyError:
        return me
    for parent in path.absolute().parents:
        if not parent.exists():
            continue
        status = parent.stat()
        bit = 0o001
        if status.st_uid == account.pw_uid:
            bit = 0o100
        elif status.st_gid == account.pw_gid:
            bit = 0o010
        if not status.st_mode & bit:
            return me
    return MOSQUITTO


def _fill(at: Path, final: Path, wanted: FleetSettings, now_utc_s: float, user: str) -> None:
    at.chmod(0o711)
    for name, mode in (("ca", 0o700), ("broker", 0o711), ("broker/data", 0o700),
                       ("enroll", 0o700), ("verifier", 0o700), ("store", 0o700),
                       ("tpm", 0o700), ("tpm/roots", 0o700)):  # fmt: skip
        (at / name).mkdir(mode=mode)
        (at / name).chmod(mode)
    root_key, issuing_key = new_key(), new_key()
    root = Authority(certificates.make_root(root_key, wanted.tenant, now_utc_s), root_key)
    issuing = Authority(
        certificates.make_issuing(root, issuing_key, wanted.tenant, now_utc_s), issuing_key
    )
    root_pem, issuing_pem = (
        certificates.pem(root.certificate),
        certificates.pem(issuing.certificate),
    )
    _put(at / "ca/root.pem", root_pem)
    _put_key(at / "ca/root-key.pem", root_key)
    _put(at / "ca/issuing.pem", issuing_pem)
    _put_key(at / "ca/issuing-key.pem", issuing_key)
    for name, host in (("broker", wanted.broker.host), ("enroll", wanted.enroll.host)):
        key = new_key()
        leaf = certificates.make_server(issuing, key.public_key(), [host], now_utc_s)
        _put(at / name / "server.pem", certificates.pem(leaf) + issuing_pem)
        _put_key(at / name / "server-key.pem", key)
    key = new_key()
    leaf = certificates.make_client(issuing, key.public_key(), wanted.tenant, now_utc_s)
    _put(at / "verifier/client.pem", certificates.pem(leaf) + issuing_pem)
    _put_key(at / "verifier/client-key.pem", key)
    _put_key(at / "verifier/key.pem", new_key())
    _put(at / "broker/ca.pem", root_pem)
    _put(at / "broker/acl", broker.acl(wanted.tenant))
    plugin = broker.find_plugin()
    if plugin is not None:
        _put(at / "broker/data" / broker.STATE_FILE, broker.first_state(wanted.tenant), 0o600)
    conf = broker.mosquitto_conf(final / "broker", wanted, user, plugin)
    _put(at / "broker/mosquitto.conf", conf)
    _put(at / "fleet.toml", settings.text(wanted))
    account = pwd.getpwnam(user)
    if account.pw_uid != os.geteuid():
        for path in (
            at / "broker/server-key.pem",
            at / "broker/data",
            *(at / "broker/data").iterdir(),
        ):
            os.chown(path, account.pw_uid, account.pw_gid)


def new_key() -> ec.EllipticCurvePrivateKey:
    """P-256, for anything of the folder."""
    return ec.generate_private_key(ec.SECP256R1())


def _put_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _put(path, FileSigner(key).to_pem().decode(), 0o600)


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_tree(path: Path) -> None:
    for folder, _, _ in os.walk(path):
        _sync(Path(folder))


def _cannot(why: str, next_step: str) -> OperatorFault:
    return OperatorFault(
        f"cannot make the fleet folder: {why}", code="EW-SET-022", next_step=next_step
    )
