"""From settings and identity to the uplink: link/ does not know settings/, so the words are
translated here."""

from __future__ import annotations

from collections.abc import Callable

from edgewarden.daemon.timekeeper import Timekeeper
from edgewarden.link.uplink import EventSink, StatusBuilder, Uplink, UplinkSettings
from edgewarden.ports import Drain, Randomness
from edgewarden.settings import schema
from edgewarden.trust.identity import Identity
from edgewarden.trust.tls import client_context

Answers = tuple[StatusBuilder, Callable[[bytes], None], Callable[[bytes], None], EventSink]
"""Who builds a status, and who takes a nonce, a result, the uplink's own events."""


def build_uplink(
    wanted: schema.Uplink,
    who: Identity,
    storage: Drain,
    answers: Answers,
    clock: Timekeeper,
    random: Randomness,
) -> Uplink:
    """The uplink of this gateway; nothing connects before its ``run``."""
    return Uplink(
        uplink_settings(wanted, who),
        storage,
        lambda: client_context(who, clock.verify_at()),
        *answers,
        clock,
        random,
    )


def uplink_settings(wanted: schema.Uplink, who: Identity) -> UplinkSettings:
    """The same settings in the words of link/."""
    return UplinkSettings(
        host=wanted.host or who.broker_host,
        port=wanted.port or who.broker_port,
        tenant=who.tenant,
        device=who.device,
        session=who.session,
        start_spread_s=wanted.start_spread_s,
        keepalive_s=wanted.keepalive_s,
        window=wanted.window,
        backlog_bytes_s=wanted.backlog_bytes_s,
        reconnect_base_s=wanted.reconnect_base_s,
        reconnect_cap_s=wanted.reconnect_cap_s,
    )
