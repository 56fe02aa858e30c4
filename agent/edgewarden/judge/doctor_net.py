"""doctor's classifiers for the connection: name, TCP, TLS, MQTT, session. Pure, like doctor.py.

A probe reports an ``Outcome`` by name; here the name becomes a cause, a code and a next step. Two
causes look alike on the wire and must never be confused: a broker that cannot prove itself
(EW-NET-006: stop, report) and a broker that refuses us (EW-NET-007: ask the operator).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from edgewarden.judge.doctor import Rung, broken, ok, unchecked, weak

AREA = "network"

# MQTT 5.0 §3.2.2.2, table 3-1; those a gateway can meet.
CONNACK_REASONS = {
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorised",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x97: "quota exceeded",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
}
MQTT_3_UNSUPPORTED = 0x01
"""MQTT 3.1.1 §3.2.2.3: how a broker of before MQTT 5 refuses protocol level 5."""

# X509_V_ERR_* of <openssl/x509_vfy.h>.
CERT_NOT_YET_VALID, CERT_HAS_EXPIRED, HOSTNAME_MISMATCH = 9, 10, 62


class Outcome(Protocol):
    """What a probe met, as probe/net.py reports it."""

    @property
    def name(self) -> str:
        """``ok``, or the refusal's name: see the functions below."""

    @property
    def detail(self) -> str:
        """One line of evidence."""

    @property
    def number(self) -> int:
        """Reason code (MQTT) or verification error (TLS)."""


def judge_name(host: str, outcome: Outcome) -> Rung:
    """ok: the addresses."""
    if outcome.name == "ok":
        return ok("name", AREA, f"{host} is {outcome.detail}")
    step = f"try `getent hosts {host}`; check /etc/resolv.conf and the cable"
    return broken("name", AREA, f"{host}: {outcome.detail}", "EW-NET-003", step)


def judge_tcp(where: str, outcome: Outcome) -> Rung:
    """ok, refused_connection, timeout, unreachable."""
    if outcome.name == "ok":
        return ok("tcp", AREA, f"connected to {where}")
    steps = {
        "refused_connection": "nothing listens there: ask the operator whether the broker runs",
        "timeout": "no answer at all: ask the site whether its firewall lets this port out",
        "unreachable": "no route: check cable, address and gateway (`ip route`)",
    }
    step = steps.get(outcome.name, "check uplink.host and uplink.port")
    return broken("tcp", AREA, f"{where}: {outcome.detail}", "EW-NET-004", step)


def judge_proxy(where: str, outcome: Outcome) -> Rung:
    """The site's proxy, as far as TCP; what it lets out link alone can say."""
    if outcome.name == "ok":
        return ok("proxy", AREA, f"connected to {where}")
    step = "check [uplink] proxy; ask the site whether its proxy runs"
    return broken("proxy", AREA, f"{where}: {outcome.detail}", "EW-NET-014", step)


def judge_tls(where: str, outcome: Outcome) -> Rung:
    """ok, untrusted (the broker's certificate), refused (ours), anything else is no TLS."""
    if outcome.name == "ok":
        return ok("tls", AREA, outcome.detail)
    if outcome.name == "untrusted":
        causes = {
            CERT_NOT_YET_VALID: "check this board's clock first (`date -u`)",
            CERT_HAS_EXPIRED: "check this board's clock (`date -u`); if right, tell the operator",
            HOSTNAME_MISMATCH: "uplink.host must be the name in the broker's certificate",
        }
        step = causes.get(outcome.number, "somebody may answer in its place: report, do not retry")
        return broken("tls", AREA, f"{where}: {outcome.detail}", "EW-NET-006", step)
    if outcome.name == "refused":
        step = "see `edgewarden identity show`; ask the operator whether it was revoked"
        return broken("tls", AREA, f"{where}: {outcome.detail}", "EW-NET-007", step)
    step = "check uplink.port; ask the site whether it inspects TLS"
    return broken("tls", AREA, f"{where}: {outcome.detail}", "EW-NET-005", step)


def judge_mqtt(outcome: Outcome) -> Rung:
    """ok, refused (a reason code), refused_certificate (the TLS 1.3 alert that comes late)."""
    if outcome.name == "ok":
        return ok("mqtt", AREA, outcome.detail)
    if outcome.name == "refused_certificate":
        step = "see `edgewarden identity show`; ask the operator whether it was revoked"
        return broken("mqtt", AREA, outcome.detail, "EW-NET-007", step)
    reason = CONNACK_REASONS.get(outcome.number, "")
    if outcome.number == MQTT_3_UNSUPPORTED:
        reason = "the broker speaks no MQTT 5"
    text = f"{outcome.detail}: {reason}" if reason else outcome.detail
    step = "give this reason to the operator of the broker"
    return broken("mqtt", AREA, text, "EW-NET-008", step)


def judge_session(
    uplink: Mapping[str, object], sound_below: bool, reasons: Iterable[Mapping[str, str]] = ()
) -> Rung:
    """What the running link says of its session; replaces the MQTT probe, which would end it.

    Args:
        uplink: of edgewarden.status/1.
        sound_below: every network rung below held.
        reasons: of the same status; the uplink's own says what the broker said.
    """
    if uplink["connected"]:
        text = f"link has a session since {uplink['since_utc']}"
        return ok("session", AREA, text)
    text = f"link has no session ({uplink['reconnects']} reconnects so far)"
    if not sound_below:
        return unchecked("session", AREA, "link has no session: mend the rung above first")
    step = "wait two minutes; then look at `journalctl -u edgewarden-link`"
    for told in reasons:
        if told["code"].startswith("EW-NET-"):
            here = "edgewarden doctor" in told["next"]  # where the reader comes from
            return broken(
                "session", AREA, told["text"], told["code"], step if here else told["next"]
            )
    return broken("session", AREA, text, "EW-NET-009", step)


def judge_attestation(result: str, age_s: float | None) -> Rung:
    """The verifier's last word, as link remembers it."""
    if result == "affirming" and age_s is not None:
        return ok("attestation", AREA, f"affirming, {age_s:.1f} s ago")
    if age_s is None:
        step = "wait for one [attestation] period_s, then ask the operator"
        return weak("attestation", AREA, "no result yet", "EW-ATT-002", step)
    step = "ask the operator what `edgewarden-fleet show ID` names"
    return weak("attestation", AREA, f"the last result is {result}", "EW-ATT-001", step)
