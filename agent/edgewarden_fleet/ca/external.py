"""Certificate authorities of others, behind the port of issuers.py.

    Cmp      RFC 4210 by running `openssl cmp`: the fleet is the registration authority, it has
             checked that the gateway holds its key (popo RAVERIFIED) and says the names
    Cfssl    cfssl's authsign API: the request is authenticated by HMAC-SHA256 with a shared key

Both are told subject and names; what they sign is held to what was asked for (``checked``), so a
profile that changes something is found out here. cfssl 1.2 (Debian's) cannot put a URI into a
certificate: its gateways carry the DNS name of ``device_host`` instead, which says the same.

A CA's root must be believed by gateways, verifier and broker: `edgewarden-fleet ca trust FILE`.
Secrets are files below the fleet folder, never words of a command line.

    Cmp(CaSettings(...), folder).issue(wanted, now_utc_s)
"""

from __future__ import annotations

import base64
import hmac
import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from cryptography import x509

from edgewarden.enrol.service import device_host, device_urn
from edgewarden.errors import PeerFault, PeerUnavailable
from edgewarden_fleet.ca.issuers import Chain, Wanted
from edgewarden_fleet.ca.programs import run
from edgewarden_fleet.ca.settings import CaSettings

WITHIN_S = 20.0
"""The gateway waits 15 s for an answer, then asks again with the same key."""
MAX_ANSWER_BYTES = 64 * 1024


class Cmp:
    """`openssl cmp -cmd cr`. Blocks for at most WITHIN_S."""

    def __init__(self, settings: CaSettings, folder: Path) -> None:
        self._settings = settings
        self._secret = folder / settings.secret_file

    def issue(self, wanted: Wanted, now_utc_s: float) -> Chain:
        """See Issuer."""
        s = self._settings
        with tempfile.TemporaryDirectory(prefix="ew-cmp-") as name:
            place = Path(name)
            (place / "csr.pem").write_text(wanted.csr_pem)
            ended = run(
                (
                    "openssl", "cmp", "-cmd", "cr", "-server", s.server, "-path", s.path,
                    "-ref", s.ref, "-secret", f"file:{self._secret}",
                    "-csr", str(place / "csr.pem"),
                    "-subject", f"/O={wanted.tenant}/CN={wanted.session}",
                    "-sans", device_urn(wanted.tenant, wanted.device), "-popo", "0",
                    "-certout", str(place / "leaf.pem"), "-extracertsout", str(place / "more.pem"),
                    "-disable_confirm", "-msg_timeout", "10", "-total_timeout", "15",
                ),
                WITHIN_S,
            )  # fmt: skip
            if ended.status != 0:
                raise _refused("the CMP server", ended.said)
            return _chain(place / "leaf.pem", place / "more.pem")


class Cfssl:
    """authsign and info. Blocks for at most WITHIN_S."""

    def __init__(self, settings: CaSettings, folder: Path) -> None:
        self._settings = settings
        self._secret = folder / settings.secret_file

    def issue(self, wanted: Wanted, now_utc_s: float) -> Chain:
        """See Issuer."""
        request = json.dumps(
            {
                "certificate_request": wanted.csr_pem,
                "profile": self._settings.profile,
                "hosts": [device_host(wanted.tenant, wanted.device)],
                "subject": {"CN": wanted.session, "names": [{"O": wanted.tenant}]},
            }
        ).encode()
        try:
            key = bytes.fromhex(self._secret.read_text().strip())
        except (OSError, ValueError) as fault:
            raise PeerUnavailable(
                f"the key for cfssl cannot be read: {fault}",
                code="EW-ID-040",
                next_step=f"put the auth key's hex digits into {self._secret}, mode 0600",
            ) from fault
        token = hmac.digest(key, request, "sha256")
        body = {"token": _b64(token), "request": _b64(request)}
        leaf = self._ask("authsign", body)
        issuing = self._ask("info", {"label": "", "profile": self._settings.profile})
        return _parsed(leaf, issuing)

    def _ask(self, call: str, body: dict[str, str]) -> str:
        url = f"{self._settings.server.rstrip('/')}/api/v1/cfssl/{call}"
        asked = urllib.request.Request(  # noqa: S310 - settings allow http(s) alone
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=WITHIN_S / 2) as answer:  # noqa: S310
                said = json.loads(answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as fault:
            with fault:
                raise _refused("cfssl", fault.read(400).decode(errors="replace")) from fault
        except (OSError, ValueError) as fault:
            raise PeerUnavailable(
                f"cfssl does not answer: {fault}",
                code="EW-ID-040",
                next_step="check ca.server in fleet.toml and that cfssl runs",
            ) from fault
        result = said.get("result") if isinstance(said, dict) else None
        if not isinstance(result, dict) or not isinstance(result.get("certificate"), str):
            raise _refused("cfssl", str(said)[:400])
        return str(result["certificate"])


def _chain(leaf: Path, more: Path) -> Chain:
    return _parsed(leaf.read_text(), more.read_text() if more.exists() else "")


def _parsed(leaf_pem: str, more_pem: str) -> Chain:
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem.encode())
        more = x509.load_pem_x509_certificates(more_pem.encode())
    except ValueError as fault:
        raise _refused("the CA", f"no certificate came: {fault}") from fault
    for one in more:
        if one.subject == leaf.issuer:
            return Chain(leaf, one)
    raise _refused("the CA", "the issuing certificate did not come with it")


def _refused(who: str, said: str) -> PeerFault:
    return PeerFault(
        f"{who} gave no certificate: {said}",
        code="EW-ID-040",
        next_step="see the CA's log; check ca.* in fleet.toml",
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
