"""Forms that the settings and the policy share: addresses, networks and units of systemd.

address_fault("10.0.0.1/8") == "10.0.0.1/8 names a host in a network; did you mean 10.0.0.0/8?"
unit_fault("ssh.service") != ""
"""

from __future__ import annotations

import ipaddress
import re

ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?")
ADDRESS_RULE = "an IPv4 or IPv6 address, or a network such as 10.0.0.0/8"
# systemd.unit(5), without escapes: the name is part of a cgroup's path, too.
UNIT = re.compile(
    r"(?=.{1,255}$)(?:/(?:[A-Za-z0-9:_.@-]+/){0,6})?[A-Za-z0-9:_@-][A-Za-z0-9:_.@-]*"
    r"\.(?:service|scope|slice)"
)
UNIT_RULE = (
    "a unit's full name (cron.service), or its control group from the root "
    "(/custom.slice/cron.service)"
)
NEVER_MANAGED = re.compile(
    r"(?:-|system|user)\.slice|init\.scope|user@.*|session-.*|(?:ssh|sshd)(?:@.*)?\.service"
    r"|(?:systemd-|dbus|getty|serial-getty|console-getty|NetworkManager|dhcpcd|edgewarden).*"
)
"""Units without which nobody gets in to correct a mistake: log-ins, name and address services, and
this agent."""


def address_fault(value: str) -> str:
    """Why this is no address or network, or ""."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            close = ipaddress.ip_network(value, strict=False)
        except ValueError:
            return f"{value} is not allowed: {ADDRESS_RULE}"
        return f"{value} names a host in a network; did you mean {close}?"
    return ""


def unit_fault(value: str) -> str:
    """Why this unit cannot be managed, or ""."""
    if NEVER_MANAGED.fullmatch(value.rpartition("/")[2]):
        return f"{value} is never managed: without it nobody gets in to correct a mistake"
    return ""
