"""The drop-in of one managed service: facts about it in, directives with their reasons out.

Rules in order:

1. What keeps the machine reachable is never touched, whatever the settings say (``protected``).
2. ``NoExecPaths=/`` and ``ExecPaths=`` of its programs, their interpreters and loaders, and the
   folders of their libraries: systemd mounts everything else noexec for it, and the kernel then
   refuses execve() and mapping as code (hence ld.so PROGRAM and LD_PRELOAD, too).
3. What may be executed may not be written: ``BindReadOnlyPaths=`` names the same places. (With
   ``ReadOnlyPaths=`` systemd drops a path below another read-only one, and its ExecPaths= with it.)
4. systemd leaves out of the recursion every path that the unit has an entry for: its writable
   folders, PrivateTmp=, ProtectSystem= and their kind. So each is named again (``entries``,
   ALWAYS); without this a dropped program runs from the very place the service writes to.
5. No way around 2: no mounts (``@mount``) and no memory file (``memfd_create``), no namespaces, no
   memory both writable and executable, no set-user-id. Each is left out, with its reason, where
   the service was seen to need it.
6. Devices it does not hold are closed; addresses only as the settings ask.
7. A directive that the unit has itself is left to the unit, where a second one would widen it.

What it cannot do, and docs/threat-model.md says: a path is no content, ``sh script`` runs where sh
may, a file system mounted later comes without noexec.

    plan_service(Wish("mosquitto.service"), facts, host).lines[0] == ("NoExecPaths", "/")
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Mapping, Sequence

from edgewarden.confine.facts import Host, Item, Service, ServicePlan, State, Wish

SYSTEMD_MIN = 248
"""ExecPaths= and NoExecPaths= (systemd's NEWS, version 248)."""

_NEVER = (
    (r"edgewarden.*", "it is edgewarden's own, confined by its unit"),
    (r"systemd-.*|dbus.*|polkit.*|udev.*|init|initrd-.*|kmod|ldconfig", "it is systemd's own"),
    (r"(ssh|sshd|dropbear|telnet|getty|serial-getty|console-getty|container-getty|autovt|login"
     r"|rescue|emergency|debug-shell|user|user-runtime-dir|sudo|xrdp|lightdm|gdm|sddm)([@.-].*)?",
     "it is a way in"),
    (r"(NetworkManager|networking|ifup|dhcpcd|dhclient|wpa_supplicant|hostapd|connman|iwd"
     r"|ModemManager|wg-quick|openvpn|tailscaled|zerotier-one|nftables|netfilter-persistent|ufw"
     r"|firewalld)([@.-].*)?", "it keeps the way in open"),
    (r"apt-.*|dpkg-.*|packagekit.*|unattended-upgrades|needrestart.*|rauc|mender.*|swupdate",
     "it installs software"),
)  # fmt: skip
_LAUNCHERS = re.compile(
    r"(cron|cronie|anacron|atd|containerd|docker|podman|crio|lxc|lxd|incus|libvirtd|snapd|flatpak"
    r"|supervisor|runit|monit)([@.-].*)?"
)
_ALWAYS = (
    "/usr /boot /efi /etc /dev /dev/shm /dev/hugepages /dev/mqueue /run /run/user /home /root /tmp"
    " /var/tmp /proc /sys /var /opt /srv /mnt /media"
)
ALWAYS = tuple(_ALWAYS.split())
"""Where ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices= and their kind put entries, and
folders that are mounts of their own on many machines. Seen on systemd 257: ProtectSystem=full alone
left all of /usr executable, PrivateTmp= its /tmp, ProtectSystem=strict /dev/shm."""
PATHS = ("ReadWritePaths", "ReadOnlyPaths", "TemporaryFileSystem", "BindPaths",
         "BindReadOnlyPaths")  # fmt: skip
FOLDERS = {
    "StateDirectory": "/var/lib",
    "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
    "RuntimeDirectory": "/run",
    "ConfigurationDirectory": "/etc",
}
"""Directives of a unit that put an entry into its mounts (systemd.exec(5))."""
PROPAGATED = ("/run/systemd/incoming", "/run/host/incoming")
"""Where systemd and nspawn hand mounts to a running unit; only they can write there."""
_OWN_ROOT = ("RootDirectory", "RootImage", "RootEphemeral", "MountImages", "ExtensionImages")
_YES = ("yes", "true", "on", "1")
_CALLS = "~@mount:EPERM memfd_create:EPERM"
_JIT_CALLS = "~@mount:EPERM"
ANY = ("0.0.0.0/0", "::/0")


def protected(unit: str) -> str:
    """Why a unit is never touched; "" when it may be."""
    stem = unit.removesuffix(".service")
    for form, why in _NEVER:
        if re.fullmatch(form, stem):
            return why
    return ""


def directives(texts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Directive -> values of a unit's files in the order systemd reads them.

    An empty value resets what stood before (systemd.syntax(7)); sections are not told apart, as no
    two of them share a directive that matters here.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        for line in re.sub(r"\\\n", " ", text).splitlines():
            name, equals, value = line.strip().partition("=")
            if not equals or name.startswith(("#", ";", "[")):
                continue
            name, value = name.strip(), value.strip()
            found[name] = (*found.get(name, ()), value) if value else ()
    return found


PeerRow = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], bool, bool]
"""units, uids, addresses, hosts, whether it names ports, whether it denies: an [[egress]] rule."""


def peers_of(unit: str, rules: Sequence[PeerRow]) -> tuple[str, ...] | None:
    """The addresses an [[egress]] allowlist leaves a unit; None where systemd cannot say it.

    systemd filters addresses and neither ports nor names, and takes no order: a rule that goes by
    name, or that denies, is for gate's network table. A rule for a unit of a user's counts for
    whoever that user is, which a unit does not show, and is left out: narrower.
    """
    found: list[str] = []
    for units, uids, addresses, hosts, _, denies in rules:
        if (units and unit not in [one.rpartition("/")[2] for one in units]) or (
            uids and not units
        ):
            continue
        if hosts or denies:
            return None
        found += addresses or ("any",)
    return tuple(dict.fromkeys(found))


def plan_service(wish: Wish, facts: Service, host: Host) -> ServicePlan:
    """See the module."""
    why = _refusal(wish, facts, host)
    if why:
        return ServicePlan(wish.unit, refused=why)
    rows: list[tuple[list[tuple[str, str]], Item]] = [
        _paths(wish, facts),
        _privileges(facts),
        _memory(wish, facts),
        _namespaces(wish, facts),
        _calls(wish, facts),
        _devices(wish, facts),
        _network(wish, facts, host),
    ]
    lines = tuple(line for some, _ in rows for line in some)
    return ServicePlan(wish.unit, lines, tuple(item for _, item in rows))


def dropin(plan: ServicePlan) -> str:
    """The text of the drop-in."""
    head = (
        "# Made by `edgewarden confine apply`; `edgewarden confine revert` takes it away.\n"
        "# `edgewarden confine verify` names a change by hand as drift.\n[Service]\n"
    )
    return head + "".join(f"{name}={value}\n" for name, value in plan.lines)


def parse_dropin(unit: str, text: str) -> ServicePlan:
    """The lines of a drop-in that ``dropin`` wrote."""
    pairs = (row.partition("=") for row in text.splitlines() if row[:1].isalpha())
    return ServicePlan(unit, tuple((name, value) for name, _, value in pairs))


def entries(live: Mapping[str, str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The places for which a unit has mounts of its own, as systemd shows its directives.

    Args:
        allowed: what it may execute: ours, bound read-only, and no entry of the unit's.
    """
    found = []
    for name in PATHS:
        for word in live.get(name, "").split():
            path = word.lstrip("-+")
            if name.startswith("Bind"):  # SOURCE:DESTINATION:OPTIONS
                path = [*path.split(":"), ""][1] or path.split(":")[0]
            found.append(path.split(":")[0])
    for name, top in FOLDERS.items():
        for word in live.get(name, "").split():
            below = word.split(":")[0]
            found += [f"{top}/{below}", f"{top}/private/{below}"]
    return tuple(path for path in dict.fromkeys(found) if path not in allowed)


def holes(places: Sequence[str], lines: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Of the places that are not noexec for a process: those it was not given."""
    given = [value.lstrip("-+") for name, value in lines if name == "ExecPaths"]
    return tuple(
        place for place in places if not within(place, tuple(given)) and place not in PROPAGATED
    )


def exec_paths(wish: Wish, facts: Service) -> tuple[str, ...]:
    """What it may execute, the shortest list: nothing that lies below another."""
    wanted = {*facts.programs, *facts.running, *facts.libraries, *wish.exec}
    return tuple(
        path for path in sorted(wanted)
        if not any(path != other and path.startswith(f"{other}/") for other in wanted)
    )  # fmt: skip


def holds(name: str, value: str, live: str) -> bool:
    """Whether systemd's loaded property says at least what a line of ours asks for."""
    words = [word.lstrip("-+") for word in live.split()]
    if name in ("IPAddressAllow", "IPAddressDeny"):
        return all(net in _networks(live) for net in _networks(value)) if value else True
    if name == "SystemCallFilter":
        return live.startswith("~") and ("memfd_create" in live) >= ("memfd_create" in value)
    if name in ("NoExecPaths", "ExecPaths"):
        return value.lstrip("-+") in words
    if name == "BindReadOnlyPaths":
        return value.lstrip("-+") in [word.split(":")[0] for word in words]
    if name == "DeviceAllow":
        return value.split()[0] in live.split()
    return live in (value, "true")


# --- one directive each --------------------------------------------------------------------------


def _refusal(wish: Wish, facts: Service, host: Host) -> str:
    if why := protected(wish.unit):
        return f"never touched, {why}"
    if not facts.loaded:
        return "systemd knows no such service"
    if host.systemd < SYSTEMD_MIN:
        return f"systemd {host.systemd} has no ExecPaths= (from {SYSTEMD_MIN} on)"
    if _LAUNCHERS.fullmatch(wish.unit.removesuffix(".service")) and not wish.exec:
        return "it starts programs that no unit names; list them in exec"
    for name in _OWN_ROOT:
        if facts.own.get(name):
            return f"it has a root of its own ({name}=)"
    if facts.missing:
        return f"its program {facts.missing[0]} is not there"
    if not facts.programs:
        return "its unit starts no program"
    return ""


def _item(facts: Service, name: str, want: str, reason: str, breaks: str) -> Item:
    now = facts.live.get(name, "")
    state = State.ALREADY if holds(name, want, now) else State.CHANGE
    return Item("service", facts.unit, want, now, state, reason, breaks, name)


def _kept(facts: Service, name: str, want: str, reason: str, why: str) -> Item:
    now = facts.live.get(name, "")
    return Item("service", facts.unit, want, now, State.KEPT, reason, "", name, why)


def _paths(wish: Wish, facts: Service) -> tuple[list[tuple[str, str]], Item]:
    reason = "only its own programs run, and nothing that was dropped"
    breaks = "helpers it starts by name and was not seen to start; a new version needs its restart"
    if "/" in " ".join(facts.own.get("NoExecPaths", ())).split():
        why = "the unit has a list of its own, which is not tried"
        return [], _kept(facts, "NoExecPaths", "/", reason, why)
    allowed = exec_paths(wish, facts)
    closed = dict.fromkeys((*ALWAYS, *entries(facts.live, allowed)))
    lines = [("NoExecPaths", "/")]
    lines += [("NoExecPaths", f"-{path}") for path in closed if path not in allowed]
    lines += [("ExecPaths", f"-{path}") for path in allowed]
    lines += [("BindReadOnlyPaths", f"-{path}") for path in allowed]
    now = f"{facts.live.get('NoExecPaths', '')} {facts.live.get('ExecPaths', '')}".strip()
    so = all(holds(name, value, facts.live.get(name, "")) for name, value in lines)
    state = State.ALREADY if so else State.CHANGE
    if facts.loose:
        breaks += f"; writable by others than root: {', '.join(facts.loose[:3])}"
    want = f"/ but {len(allowed)} place(s)"
    return lines, Item("service", facts.unit, want, now, state, reason, breaks, "NoExecPaths")


def _privileges(facts: Service) -> tuple[list[tuple[str, str]], Item]:
    item = _item(
        facts,
        "NoNewPrivileges",
        "yes",
        "no set-user-id program lends it rights",
        "sudo, ping, mail",
    )
    return [("NoNewPrivileges", "yes")], item


def _memory(wish: Wish, facts: Service) -> tuple[list[tuple[str, str]], Item]:
    name, reason = "MemoryDenyWriteExecute", "no code is made in memory"
    if wish.jit or facts.jit:
        why = "jit = true in the settings" if wish.jit else facts.jit
        return [], _kept(facts, name, "yes", reason, why)
    return [(name, "yes")], _item(facts, name, "yes", reason, "programs that compile as they run")


def _namespaces(wish: Wish, facts: Service) -> tuple[list[tuple[str, str]], Item]:
    name, reason = "RestrictNamespaces", "no mounts of its own behind noexec"
    if wish.namespaces or facts.namespaces:
        why = "namespaces = true in the settings" if wish.namespaces else facts.namespaces
        return [], _kept(facts, name, "yes", reason, why)
    if facts.own.get(name):  # a list of kinds: ours would be or-ed to it
        now = facts.live.get(name, "")
        state = State.ALREADY if now == "yes" else State.KEPT
        why = "" if now == "yes" else "the unit has a list of its own"
        return [], Item("service", facts.unit, "yes", now, state, reason, "", name, why)
    return [(name, "yes")], _item(facts, name, "yes", reason, "containers, sandboxes of its own")


def _calls(wish: Wish, facts: Service) -> tuple[list[tuple[str, str]], Item]:
    name, reason = "SystemCallFilter", "noexec is not remounted away, no program in a memory file"
    jit = wish.jit or bool(facts.jit)
    value = _JIT_CALLS if jit or wish.namespaces else _CALLS
    own = facts.own.get(name, ())
    if own and not own[0].startswith("~"):
        listed = facts.live.get(name, "").split()
        open_ = [call for call in ("mount", "memfd_create") if call in listed]
        state = State.KEPT if open_ else State.ALREADY
        why = f"its own list of calls has {' and '.join(open_)}" if open_ else ""
        return [], Item("service", facts.unit, value, "its own", state, reason, "", name, why)
    if wish.namespaces or facts.namespaces:
        return [], _kept(facts, name, value, reason, "it makes namespaces, and mounts in them")
    now = "a list" if facts.live.get(name) else ""
    state = State.ALREADY if holds(name, value, facts.live.get(name, "")) else State.CHANGE
    breaks = "programs that mount, or share memory by memfd"
    return [(name, value)], Item("service", facts.unit, value, now, state, reason, breaks, name)


def _devices(wish: Wish, facts: Service) -> tuple[list[tuple[str, str]], Item]:
    name, reason = "DevicePolicy", "no device but the pseudo ones and those it holds"
    own = [value for value in facts.own.get(name, ()) if value in ("closed", "strict")]
    if own or facts.own.get("PrivateDevices", ("no",))[-1].lower() in _YES:
        want = own[-1] if own else "closed"
        return [], Item("service", facts.unit, want, want, State.ALREADY, reason, "", name)
    nodes = sorted({*facts.devices, *wish.devices})
    lines = [(name, "closed"), *(("DeviceAllow", f"{node} rw") for node in nodes)]
    return lines, _item(
        facts, name, "closed", reason, "a device it opens later; name it in devices"
    )


def _network(wish: Wish, facts: Service, host: Host) -> tuple[list[tuple[str, str]], Item]:
    name, reason = "IPAddressDeny", "it speaks with its peers only"
    if facts.own.get(name):
        now = facts.live.get(name, "")
        return [], Item("service", facts.unit, "any", now, State.ALREADY, reason, "", name)
    if wish.network == "open":
        return [], _kept(facts, name, "any", reason, 'network = "open" in the settings')
    if not host.bpf:
        why = "cgroups of version 1: no address filter"
        return [], Item("service", facts.unit, "any", "", State.NOT_HERE, reason, "", name, why)
    if wish.network == "policy" and wish.peers is None:
        why = "the policy names a host, not an address: gate's network table has to do it"
        return [], Item("service", facts.unit, "any", "", State.NOT_HERE, reason, "", name, why)
    peers = wish.peers or () if wish.network == "policy" else ()
    allowed = [*peers, *(["localhost"] if wish.network != "none" else [])]
    lines = [(name, "any"), ("IPAddressAllow", "")]
    lines += [("IPAddressAllow", peer) for peer in allowed]
    return lines, _item(facts, name, "any", reason, "every other address, a resolver's too")


def _networks(text: str) -> set[str]:
    """Addresses and prefixes as systemd shows them: any -> both families, localhost likewise."""
    found: set[str] = set()
    for word in text.split():
        if word == "any":
            found.update(ANY)
        elif word == "localhost":
            found.update(("127.0.0.0/8", "::1/128"))
        else:
            try:
                found.add(str(ipaddress.ip_network(word, strict=False)))
            except ValueError:
                found.add(word)
    return found


def within(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a path lies at or below one of some folders."""
    clean = posixpath.normpath(path)
    return any(clean == folder or clean.startswith(f"{folder}/") for folder in folders)
