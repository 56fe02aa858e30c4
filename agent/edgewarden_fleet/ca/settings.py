"""fleet.toml: the operator side's settings, read strictly.

Unknown table or key, wrong type, a port out of range: refused with the key's path, before anything
starts. Secrets never stand here; they are files beside it (folder.py).

    read(Path("fleet/fleet.toml")).attestation.period_s == 300
"""

from __future__ import annotations

import json
import re
import tomllib
import urllib.parse
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden.settings.brokers import MQTT_5, PROFILES
from edgewarden.wire.evidence import ALL_FACETS
from edgewarden.wire.record import is_identifier

DEFAULT_REQUIRED = ("identity", "freshness", "executables")
"""Facets whose worst tier is the overall verdict; the rest are shown and do not count."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service is reached."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Attestation:
    """When gateways are challenged and what an answer must cover.

    Attributes:
        period_s: seconds between challenges of a gateway that is on line.
        nonce_ttl_s: how long a challenge may be answered.
        required: facets that decide the overall verdict.
    """

    period_s: int
    nonce_ttl_s: int
    required: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaSettings:
    """Who signs gateways' certificates (external.py).

    Attributes:
        backend: builtin, cmp or cfssl.
        server: host:port of a CMP server, URL of cfssl.
        path, ref: CMP's HTTP path and reference value.
        profile: cfssl's.
        secret_file: the shared secret, below the fleet folder.
    """

    backend: str = "builtin"
    server: str = ""
    path: str = "pkix/"
    ref: str = ""
    profile: str = ""
    secret_file: str = "ca/secret"  # noqa: S105 - a path


LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOST = re.compile(r"[a-z0-9._:-]+")
BACKENDS = ("builtin", "cmp", "cfssl")


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """All of fleet.toml."""

    tenant: str
    broker: Endpoint
    enroll: Endpoint
    console: Endpoint
    attestation: Attestation
    broker_reload: tuple[str, ...] = ()
    """What makes a broker without the dynamic-security plugin read its access list again."""
    broker_profile: str = "mqtt5"
    """What kind of broker it is, by the name that gateways have for it (uplink.broker)."""
    acknowledges: bool = False
    """Whether gateways are told, signed, up to where their records are stored (verify/word.py)."""
    ca: CaSettings = CaSettings()


def text(settings: FleetSettings) -> str:
    """Return fleet.toml for these settings."""
    s = settings
    required = ", ".join(f'"{facet}"' for facet in s.attestation.required)
    return f"""\
# Settings of edgewarden-fleet. Restart `edgewarden-fleet serve` after a change.
tenant = "{s.tenant}"

[broker]
host = "{s.broker.host}"
port = {s.broker.port}
{_reload(s.broker_reload)}{_profile(s)}
[enroll]
host = "{s.enroll.host}"
port = {s.enroll.port}

[console]            # read-only page, loopback only
host = "{s.console.host}"
port = {s.console.port}

[attestation]
period_s = {s.attestation.period_s}
nonce_ttl_s = {s.attestation.nonce_ttl_s}
required = [{required}]
{_ca(s.ca)}"""


def _ca(ca: CaSettings) -> str:
    if ca.backend == "builtin":
        return ""
    given = [(f.name, getattr(ca, f.name)) for f in fields(ca)]
    lines = [f"{name} = {json.dumps(value)}" for name, value in given if value]
    return "\n".join(["", "[ca]", *lines, ""])


def _reload(command: tuple[str, ...]) -> str:
    if not command:
        return ""
    return f"reload = {json.dumps(list(command))}\n"


def _profile(s: FleetSettings) -> str:
    profile = f'profile = "{s.broker_profile}"\n' if s.broker_profile != "mqtt5" else ""
    return profile + ("acknowledge = true\n" if s.acknowledges else "")


def _read_profile(b: _Table) -> tuple[str, bool]:
    """(profile, acknowledges): a broker whose denial is invisible asks for the verifier's word."""
    profile, said = b.body.get("profile", "mqtt5"), b.body.get("acknowledge")
    if profile not in PROFILES or PROFILES[str(profile)].refused:
        offered = ", ".join(name for name, p in PROFILES.items() if not p.refused)
        raise _no(f"broker.profile is not one of {offered}")
    if said not in (None, True, False):
        raise _no("broker.acknowledge is not true or false")
    silent = PROFILES[str(profile)].mqtt != MQTT_5
    if silent and said is False:
        raise _no(f"broker.acknowledge = false does not go with profile {profile!r}: gateways would"
                  " never let go of a record")  # fmt: skip
    return str(profile), silent if said is None else bool(said)


def read(path: Path) -> FleetSettings:
    """Read fleet.toml.

    Raises:
        OperatorFault: EW-SET-020 naming the key at fault.
    """
    try:
        body = tomllib.loads(path.read_text())
    except (OSError, ValueError) as fault:
        raise _no(f"{path}: {fault}") from fault
    known = {"tenant", "broker", "enroll", "console", "attestation"}
    table = _Table(body, "", known, {"ca"})
    tenant = table.text("tenant")
    if not is_identifier(tenant):
        raise _no(f"tenant {tenant!r} is not [a-z0-9][a-z0-9-]*, at most 63 characters")
    a = table.table("attestation", {"period_s", "nonce_ttl_s", "required"})
    required = a.body.get("required")
    if not isinstance(required, list) or not required or not set(required) <= set(ALL_FACETS):
        raise _no(f"attestation.required is not a list of {', '.join(ALL_FACETS)}")
    b = table.table("broker", {"host", "port"}, {"reload", "profile", "acknowledge"})
    profile, acknowledges = _read_profile(b)
    reload = b.body.get("reload", [])
    if not isinstance(reload, list) or not all(isinstance(w, str) and w for w in reload):
        raise _no(
            "broker.reload is not a list of words, such as ['systemctl', 'reload', 'mosquitto']"
        )
    return FleetSettings(
        tenant=tenant,
        broker=Endpoint(b.text("host"), b.number("port", 1, 65535)),
        broker_reload=tuple(reload),
        broker_profile=profile,
        acknowledges=acknowledges,
        ca=_read_ca(table),
        enroll=_endpoint(table, "enroll"),
        console=_endpoint(table, "console"),
        attestation=Attestation(
            a.number("period_s", 1, 86400), a.number("nonce_ttl_s", 5, 3600), tuple(required)
        ),
    )


def _read_ca(table: _Table) -> CaSettings:
    if "ca" not in table.body:
        return CaSettings()
    ca = table.table("ca", {"backend"}, {f.name for f in fields(CaSettings)} - {"backend"})
    given = {key: ca.text(key) for key in ca.body}
    if given["backend"] not in BACKENDS:
        raise _no(f"ca.backend is not one of {', '.join(BACKENDS)}")
    if given["backend"] == "cfssl" and not _is_url(given.get("server", "")):
        raise _no("ca.server is not an https URL, or http on loopback")
    if given["backend"] == "cmp" and not (given.get("server") and given.get("ref")):
        raise _no("ca.server and ca.ref are needed for cmp")
    for key, value in given.items():
        if value.startswith("-"):
            raise _no(f"ca.{key} begins with -, which a program would take for an option")
    secret = Path(given.get("secret_file", ""))
    if secret.is_absolute() or ".." in secret.parts:
        raise _no("ca.secret_file is not below the fleet folder")
    return CaSettings(**given)


def _is_url(text: str) -> bool:
    """https, or http that leaves no machine: by the host that is really asked."""
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.netloc not in {_joined(host, None), _joined(host, port)} or parts.query:
        return False
    if parts.fragment or not _HOST.fullmatch(host):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)


def _joined(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


class _Table:
    def __init__(
        self, body: Mapping[str, object], path: str, keys: Set[str], optional: Set[str]
    ) -> None:
        for key in body:
            if key not in keys | optional:
                known = ", ".join(sorted(keys | optional))
                raise _no(f"{path}{key} is not known; known here: {known}")
        for key in sorted(keys):
            if key not in body:
                raise _no(f"{path}{key} is missing")
        self.body = body
        self.path = path

    def text(self, key: str) -> str:
        value = self.body[key]
        if not isinstance(value, str) or not value:
            raise _no(f"{self.path}{key} is not a text")
        return value

    def number(self, key: str, low: int, high: int) -> int:
        value = self.body[key]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _no(f"{self.path}{key} is not a whole number from {low} to {high}")
        return value

    def table(self, key: str, keys: Set[str], optional: Set[str] = frozenset()) -> _Table:
        value = self.body[key]
        if not isinstance(value, dict):
            raise _no(f"{self.path}{key} is not a table")
        return _Table(value, f"{key}.", keys, optional)


def _endpoint(table: _Table, key: str) -> Endpoint:
    t = table.table(key, {"host", "port"})
    return Endpoint(t.text("host"), t.number("port", 1, 65535))


def _no(why: str) -> OperatorFault:
    return OperatorFault(
        f"fleet settings: {why}", code="EW-SET-020", next_step="correct fleet.toml and start again"
    )
