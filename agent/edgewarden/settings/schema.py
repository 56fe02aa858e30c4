"""The settings: every key, its unit, limits, default and meaning, as one frozen tree.

This file is the single source. docs/settings.md is printed from it (a test holds them together),
the validator checks against it, and every process takes its part of the tree as a parameter: no
module reads a file or the environment.

What it leaves to others: the limits that concern two keys at once (validate.py), the files
(files.py).

    Settings().host.period_s == 10
"""

from __future__ import annotations

import re

from edgewarden.plain import dataclass
from edgewarden.settings.downstream import Downstream
from edgewarden.settings.fields import (
    choice,
    number,
    path,
    paths,
    section,
    tables,
    text,
    texts,
    whole,
)
from edgewarden.settings.peers import ADDRESS, ADDRESS_RULE, UNIT, UNIT_RULE
from edgewarden.settings.processes import Processes
from edgewarden.settings.publish import HomeAssistant, Sparkplug
from edgewarden.settings.schema_exec import Exec
from edgewarden.settings.serial import Serial
from edgewarden.settings.uplink import Uplink

# systemd.unit(5): letters, digits and :-_.\\ with one @ for an instance; 255 characters in all.
_SERVICE_FORM = re.compile(r"[A-Za-z0-9:_.\\-]{1,200}(?:@[A-Za-z0-9:_.\\-]{1,40})?\.service")

# node_exporter's textfile collector reads *.prom and nothing else of its folder.
_PROM_FORM = re.compile(r"(?:/[A-Za-z0-9_@+][A-Za-z0-9._@+-]{0,63}){1,8}(?<=\.prom)")

# tss2-tctildr(7): NAME:CONFIGURATION.
_TCTI_FORM = re.compile(r"[a-z0-9-]{1,32}(?::[A-Za-z0-9_./:,=-]{0,400})?")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Device:
    """Who this gateway is."""

    id: str | None = text(
        absent="the identity's",
        help="The gateway's id. When given, it must be the id in its certificate.",
        example='"gw-demo"',
    )
    tenant: str = text("main", help="The operator's part of the fleet; the certificate's O.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class IdentityKey:
    """Where the identity's key is kept."""

    grade: str = choice(
        "auto",
        of=("auto", "G0", "G0+", "G1", "G2"),
        help="What `edgewarden enroll` makes: the highest grade whose key passes a handshake, or "
        "this one and no other. docs/keys.md says how each is had.",
    )
    tcti: str = text(
        "device:/dev/tpmrm0",
        form=_TCTI_FORM,
        rule="a TCTI as tpm2-tss names it, device:/dev/tpmrm0 or tabrmd:...",
        help="The TPM of grade G2. It needs a resource manager: the kernel's, or tpm2-abrmd.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Paths:
    """Where state and sockets live; moved by tests and demos that have no root."""

    state: str = path("/var/lib/edgewarden", help="Identity, spool, compiled policy.")
    run: str = path("/run/edgewarden", help="Sockets; emptied at boot.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Host:
    """Health of the board."""

    period_s: float = number(10, low=1, high=3600, help="Seconds between two looks.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Spool:
    """Records on disk, kept until the broker has acknowledged them."""

    bulk_commit_s: float = number(
        10, low=0.1, high=300, help="The longest time a reading waits before it is durable."
    )
    bulk_commit_bytes: int = whole(
        65536, low=1024, high=262144, help="A batch that reaches this size is committed at once."
    )
    cap_bytes: int = whole(
        268435456,
        low=4194304,
        high=68719476736,
        help="Disk the spool may use; beyond it the oldest bulk segment is evicted.",
    )
    cap_percent: int = whole(
        10,
        low=1,
        high=95,
        help="The most of its filesystem that the spool may use, as large as link finds it when it "
        "starts: the smaller one of this and cap_bytes holds, but 4 MiB in any case.",
    )
    alarm_percent: int = whole(
        10, low=1, high=80, help="Of the cap: what the other classes leave to alarms."
    )
    audit_percent: int = whole(
        20, low=1, high=80, help="Of the cap: what the other classes leave to audit records."
    )
    free_percent: int = whole(
        5, low=0, high=50, help="Of the filesystem: with less left, no more bulk is stored."
    )
    day_budget_bytes: int = whole(
        1000000000,
        low=0,
        high=1000000000000,
        help="Bytes link may write to disks in a day before it is a finding (EW-SPL-012); 0 for no "
        "budget. Nothing is refused for it. The default is five times what an idle gateway writes, "
        "and a 16 GB card written over once in 16 days.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Overload:
    """Degraded modes: what is given up first when the gateway cannot keep up."""

    calm_s: float = number(
        30,
        low=2,
        high=600,
        help="How long nothing may ask for a degraded mode before it is left, one step at a time.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Attestation:
    """Evidence for the verifier."""

    period_s: float = number(
        300, low=5, high=86400, help="Seconds between two answers to the verifier's nonce."
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Indicator:
    """One LED."""

    pin: int | None = whole(
        low=0, high=27, absent="none", help="BCM number of the pin that the LED hangs on."
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Confinement:
    """Confinement by systemd and sysctls (tier T1), planned by `edgewarden confine show`."""

    noexec: tuple[str, ...] = paths(
        ("/tmp", "/var/tmp", "/dev/shm", "/run/user", "/media"),  # noqa: S108 - named, not used
        most=16,
        help="Writable places from which nothing may be executed.",
        example='["/tmp", "/var/tmp", "/dev/shm"]',
    )
    sysctls: str = choice(
        "auto",
        of=("auto", "keep"),
        help="auto: memfd, ptrace, io_uring and protected links, where this kernel has them and "
        "nothing running needs them. keep: none is changed.",
    )
    user_namespaces: str = choice(
        "auto",
        of=("auto", "keep"),
        help="auto: no more user namespaces, unless something is found that uses them. keep: as "
        "they are.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Confined:
    """One service that may execute its own programs and nothing else."""

    name: str = text(help="A name for the table.", example='"broker"')
    unit: str = text(
        form=_SERVICE_FORM,
        rule="the name of a systemd service, NAME.service",
        help="The service. Login, remote access, networking, systemd's own, the package manager's "
        "and ours are refused.",
        example='"mosquitto.service"',
    )
    exec: tuple[str, ...] = paths(
        most=32,
        help="What it may execute besides the programs of its unit and the libraries they were "
        "seen to need: programs, or folders of libraries.",
        example='["/opt/plant/bin", "/usr/bin/rrdtool"]',
    )
    jit: bool = choice(
        False,
        of=(False, True),
        help="It makes code at run time (Java, Node.js, LuaJIT): writable and executable memory "
        "stays allowed.",
    )
    namespaces: bool = choice(
        False, of=(False, True), help="It makes namespaces of its own (containers, a sandbox)."
    )
    devices: tuple[str, ...] = paths(
        most=16,
        help="Device nodes it uses besides the pseudo devices and those it was seen to hold.",
        example='["/dev/ttyUSB0"]',
    )
    network: str = choice(
        "open",
        of=("open", "policy", "loopback", "none"),
        help="open: as the unit has it. policy: the addresses of the policy's [[egress]] rules for "
        "this unit. loopback, none: that alone, nothing.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Network:
    """What the network table does beside the policy's [[egress]] and [[ingress]] rules."""

    managed_units: tuple[str, ...] = texts(
        most=64,
        form=UNIT,
        rule=UNIT_RULE,
        help="Units that may speak to nobody but whom an [[egress]] rule allows, also when no rule "
        "names them.",
        example='["historian.service"]',
    )
    ssh_port: int = whole(
        22, low=1, high=65535, help="Connections to this port are never denied, held or counted."
    )
    limits: str = choice(
        "off",
        of=("off", "on"),
        help="Flood limits for connections from outside. They are counted in the modes learn and "
        "observe, and bite in enforce.",
    )
    enrolled: tuple[str, ...] = texts(
        most=1024,
        form=ADDRESS,
        rule=ADDRESS_RULE,
        help="Addresses of enrolled devices: no limit below concerns them.",
        example='["10.20.0.5", "10.20.1.0/24"]',
    )
    connections_per_source: int = whole(
        20, low=1, high=65535, help="TCP connections of one address (IPv6: one /64) at a time."
    )
    syn_per_source: int = whole(
        20, low=1, high=100000, help="New TCP connections of one address in a second."
    )
    syn_burst: int = whole(40, low=1, high=100000, help="As many at once are let through.")
    unknown_slots: int = whole(
        500,
        low=1,
        high=65535,
        help="TCP connections of all addresses that are not enrolled, together. What the services "
        "take beyond it is reserved for enrolled devices.",
    )
    udp_per_source: int = whole(
        200, low=1, high=1000000, help="Unanswered UDP packets of one address in a second."
    )
    udp_unknown: int = whole(
        2000, low=1, high=1000000, help="The same of all addresses that are not enrolled, together."
    )
    hold_s: int = whole(
        30,
        low=1,
        high=60,
        help="How long an address that goes on against a limit is held off, in seconds; it ends by "
        "itself.",
    )
    dns_refresh_s: int = whole(
        60, low=10, high=3600, help="Seconds between two look-ups of a name in a rule."
    )
    dns_keep_s: int = whole(
        3600,
        low=60,
        high=86400,
        help="An address stays allowed so long after it was last an answer.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prometheus:
    """The status as a file for node_exporter's textfile collector."""

    textfile: str | None = text(
        absent="none",
        form=_PROM_FORM,
        rule="an absolute path that ends in .prom",
        help="The file, replaced whole. Its folder must let link's user write (and, under systemd, "
        "stand in ReadWritePaths= of a drop-in of edgewarden-link.service).",
        example='"/var/lib/prometheus/node-exporter/edgewarden.prom"',
    )
    period_s: float = number(15, low=1, high=3600, help="Seconds between two writings.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """Everything, as one tree; the parts are passed down to those who need them."""

    device: Device = section(Device, help="Who this gateway is.")
    paths: Paths = section(Paths, help="Where state and sockets live.")
    uplink: Uplink = section(Uplink, help="The session with the broker.")
    exec: Exec = section(Exec, help="What may be executed, and where.")
    serial: tuple[Serial, ...] = tables(
        Serial, most=32, help="One table for each port; a later file replaces a port by its name."
    )
    host: Host = section(Host, help="Health of the board.")
    processes: Processes = section(Processes, help="The inventory of processes.")
    spool: Spool = section(Spool, help="Records on disk until they are acknowledged.")
    overload: Overload = section(
        Overload, help="Degraded modes: what is given up first when the gateway cannot keep up."
    )
    attestation: Attestation = section(Attestation, help="Evidence for the verifier.")
    indicator: Indicator = section(Indicator, help="One LED.")
    confinement: Confinement = section(Confinement, help="Confinement of the host (tier T1).")
    confined: tuple[Confined, ...] = tables(
        Confined, most=64, help="One table for each managed service, merged by its name."
    )
    network: Network = section(Network, help="Who may speak with whom, and how much.")
    identity: IdentityKey = section(IdentityKey, help="Where the identity's key is kept.")
    prometheus: Prometheus = section(
        Prometheus, help="The status as a file for node_exporter's textfile collector."
    )
    homeassistant: HomeAssistant = section(
        HomeAssistant, help="Copies of readings for Home Assistant, by MQTT discovery."
    )
    sparkplug: Sparkplug = section(Sparkplug, help="Copies of readings as Sparkplug B.")
    downstream: Downstream = section(Downstream, help="Devices behind the gateway.")
