"""Forms that the settings and the policy share: addresses, networks and units of systemd.

address_fault("10.0.0.1/8") == "10.0.0.1/8 names a host in a network; did you mean 10.0.0.0/8?"
unit_fault("ssh.service") != ""
"""

from __future__ import annotations

import ipaddress
import re

ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?")
ADDRESS_RULE = "an IPv4 or IPv6 address, or a network such as 10.0.0.0/8"
MAPPED_BITS = 96
"""::ffff:0:0/96, RFC 4291 section 2.5.5.2."""
# systemd.unit(5); the name is part of a cgroup's path, too.
UNIT = re.compile(
    r"(?=.{1,255}$)(?:/(?:[A-Za-z0-9:_.@\\-]+/){0,6})?[A-Za-z0-9:_@-][A-Za-z0-9:_.@\\-]*"
    r"\.(?:service|scope|slice)"
)
UNIT_RULE = (
    "a unit's full name (cron.service), or its control group from the root "
    "(/custom.slice/cron.service)"
)
NEVER_MANAGED = re.compile(
    r"(?:-|system|user)\.slice|init\.scope|user@.*|user-.*\.slice|session-.*"
    r"|(?:ssh|sshd|dropbear)(?:@.*)?\.service|(?:ifup|ppp|wg-quick)@.*"
    r"|(?:systemd-|dbus|getty|serial-getty|console-getty|NetworkManager|ModemManager|dhcpcd|dhclient"
    r"|edgewarden|networking|wpa_supplicant|iwd|connman|tailscaled|netplan).*"
    r"|(?:dnsmasq|unbound|named|bind9|chrony|chronyd|ntp|ntpd|ntpsec|openntpd)(?:@.*)?\.service"
)
"""Units without which nobody gets in to correct a mistake: log-ins, what makes the network, name,
address and time services, and this agent."""
NEVER_MANAGED_USERS = (
    "systemd-network", "systemd-resolve", "systemd-timesync", "messagebus", "dhcpcd", "dnsmasq",
    "unbound", "bind", "_chrony", "ntp", "ntpsec", "openntpd", "sshd",
)  # fmt: skip
"""Users of these services, as Debian calls them. link's own is a setting."""


def address_fault(value: str) -> str:
    """Why this is no address or network, or "".

    An IPv4 address in IPv6's clothes is none: a program may write it, the packet is IPv4's, and no
    rule would ever meet it.
    """
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        try:
            close = ipaddress.ip_network(value, strict=False)
        except ValueError:
            return f"{value} is not allowed: {ADDRESS_RULE}"
        return f"{value} names a host in a network; did you mean {close}?"
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            plain = f"{mapped}/{network.prefixlen - MAPPED_BITS}".removesuffix("/32")
            return f"{value} is in no packet: such a peer is spoken to by IPv4; write {plain}"
    return ""


def unit_fault(value: str) -> str:
    """Why this unit cannot be managed, or ""."""
    name = value.rpartition("/")[2]
    template = re.fullmatch(r"system-(.+)\.slice", name)  # where a template's instances lie
    if template is not None:
        name = template[1].replace("\\x2d", "-") + "@.service"
    if NEVER_MANAGED.fullmatch(name):
        return f"{value} is never managed: without it nobody gets in to correct a mistake"
    return ""
