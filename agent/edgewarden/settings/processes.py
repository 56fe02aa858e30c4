"""[processes]: what the gateway expects of its processes and listeners.

Part of the settings' tree (schema.py); what a finding means is for watch/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import MISSING
from edgewarden.settings.fields import choice, number, paths, tables, text, whole
from edgewarden.settings.tree import Broken

_PATH_FORM = re.compile(r"/[^\0]{1,510}")
_UNIT_NAME_FORM = re.compile(r"[A-Za-z0-9:_.@\\-]{1,246}\.(service|scope|socket)")
_COMM_FORM = re.compile(r"[^\0/]{1,15}")
_ADDRESS_FORM = re.compile(r"[0-9A-Fa-f:.]{2,45}")

# Debian 13's setuid-root programs that people and services use (find / -perm -4000).
MAY_ELEVATE = (
    "/usr/bin/sudo",
    "/usr/bin/su",
    "/usr/bin/passwd",
    "/usr/bin/mount",
    "/usr/bin/umount",
    "/usr/bin/fusermount3",
    "/usr/bin/pkexec",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",
    "/usr/lib/polkit-1/polkit-agent-helper-1",
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RequiredProcess:
    """A process that must be there: missing for `grace_s`, or started over and over, is a finding.
    What is given of `unit`, `exe` and `process` must all fit; name the unit where there is one."""

    name: str = text(help="What the finding calls it.", example='"broker"')
    unit: str | None = text(
        form=_UNIT_NAME_FORM,
        rule="a systemd unit's name with its ending",
        absent="not looked at",
        help="The systemd unit it runs in; that of a user's own services is user@UID.service.",
        example='"mosquitto.service"',
    )
    exe: str | None = text(
        form=_PATH_FORM,
        rule="an absolute path",
        absent="not looked at",
        help="Its program.",
        example='"/usr/sbin/mosquitto"',
    )
    process: str | None = text(
        form=_COMM_FORM,
        rule="at most 15 characters",
        absent="not looked at",
        help="What it calls itself (`ps -o comm`); any process can call itself so.",
        example='"mosquitto"',
    )
    grace_s: float = number(
        30, low=1, high=86400, help="How long it may be away before it counts as missing."
    )
    restarts: int = whole(
        5, low=2, high=1000, help="So many starts within `within_s` are a restart loop."
    )
    within_s: float = number(300, low=1, high=86400, help="See `restarts`.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExpectedListener:
    """A listener that is no news. What listens when the agent starts never is."""

    name: str = text(help="What it is for.", example='"ssh"')
    protocol: str = choice("tcp", of=("tcp", "udp"), help="Transport.")
    port: int = whole(low=1, high=65535, help="Port.", example="22")
    address: str | None = text(
        form=_ADDRESS_FORM,
        rule="an IP address",
        absent="any",
        help="The address it is bound to; `0.0.0.0` and `::` are every interface.",
        example='"127.0.0.1"',
    )
    uid: int | None = whole(
        low=0, high=2**32 - 2, absent="any", help="Owner of the socket.", example="0"
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Processes:
    """The inventory of processes and listeners, and what is a finding about them."""

    sweep_s: float = number(
        2, low=0.5, high=300, help="Seconds between two sweeps of /proc for what events missed."
    )
    most_sockets: int = whole(
        1024, low=16, high=1048576, help="A process that holds more sockets is a finding."
    )
    storm_per_s: int = whole(
        1000, low=50, high=1000000, help="More forks or starts in a second are a storm."
    )
    may_elevate: tuple[str, ...] = paths(
        MAY_ELEVATE,
        most=64,
        help="Programs that are expected to run as root when somebody else starts them: such a "
        "start is told as LOW, any other as HIGH.",
    )
    required: tuple[RequiredProcess, ...] = tables(
        RequiredProcess, most=32, help="A later file replaces one by its name."
    )
    listener: tuple[ExpectedListener, ...] = tables(
        ExpectedListener, most=64, help="A later file replaces one by its name."
    )


def required_rules(one: RequiredProcess) -> Iterator[Broken]:
    """What one required process must keep."""
    if not (one.unit or one.exe or one.process):
        yield (), "one of unit, exe and process must be given", MISSING
