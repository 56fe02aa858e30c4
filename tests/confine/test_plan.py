"""The plan of tier T1 as tables: facts about a machine in, items and files out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgewarden.confine.facts import Host, Item, Mount, Plan, Service, State, Wish
from edgewarden.confine.plan import SYSCTL_FILE, files, plan
from edgewarden.confine.service import (
    PeerRow,
    directives,
    dropin,
    exec_paths,
    holds,
    parse_dropin,
    peers_of,
    plan_service,
    protected,
)

LIBS = "/usr/lib/aarch64-linux-gnu"
BROKER = Service(
    "mosquitto.service",
    active=True,
    own={"ExecStart": ("/usr/sbin/mosquitto -c /etc/mosquitto/mosquitto.conf",)},
    live={"NoNewPrivileges": "no", "DevicePolicy": "auto"},
    programs=("/usr/sbin/mosquitto", f"{LIBS}/ld-linux-aarch64.so.1"),
    running=("/usr/sbin/mosquitto",),
    libraries=(LIBS,),
)
WISH = Wish("mosquitto.service")
PI = Host(
    (6, 12),
    257,
    sysctls={
        "vm.memfd_noexec": "0",
        "kernel.io_uring_disabled": "0",
        "fs.protected_hardlinks": "1",
        "fs.protected_symlinks": "1",
        "fs.protected_fifos": "1",
        "fs.protected_regular": "2",
        "user.max_user_namespaces": "15000",
    },
)
TMP = Mount("/tmp", mounted=True, options=("rw", "nosuid", "nodev"), unit="tmp.mount",
            unit_options="mode=1777,nosuid,nodev,size=50%%")  # fmt: skip


def lines(wish: Wish = WISH, service: Service = BROKER, host: Host = PI) -> list[tuple[str, str]]:
    return list(plan_service(wish, service, host).lines)


def item(made: Plan, subject: str, name: str = "") -> Item:
    (found,) = [i for i in made.items if i.subject == subject and i.name == name]
    return found


# --- services ------------------------------------------------------------------------------------


def test_a_service_may_run_its_programs_and_libraries_and_write_none_of_them() -> None:
    got = lines()
    assert got[0] == ("NoExecPaths", "/")
    for name in ("ExecPaths", "BindReadOnlyPaths"):
        assert [v for n, v in got if n == name] == [f"-{LIBS}", "-/usr/sbin/mosquitto"]
    assert ("NoNewPrivileges", "yes") in got
    assert ("MemoryDenyWriteExecute", "yes") in got
    assert ("RestrictNamespaces", "yes") in got
    assert ("SystemCallFilter", "~@mount:EPERM memfd_create:EPERM") in got
    assert ("DevicePolicy", "closed") in got
    assert not [n for n, _ in got if n.startswith("IPAddress")]


@pytest.mark.parametrize(
    ("unit", "why"),
    [
        ("ssh.service", "a way in"),
        ("sshd@1-10.0.0.1.service", "a way in"),
        ("serial-getty@ttyAMA0.service", "a way in"),
        ("user@1000.service", "a way in"),
        ("NetworkManager.service", "the way in open"),
        ("wg-quick@wg0.service", "the way in open"),
        ("systemd-logind.service", "systemd's own"),
        ("dbus-broker.service", "systemd's own"),
        ("apt-daily-upgrade.service", "installs software"),
        ("edgewarden-gate.service", "edgewarden's own"),
    ],
)
def test_what_keeps_the_machine_reachable_is_never_touched(unit: str, why: str) -> None:
    made = plan([Wish(unit)], {unit: replace(BROKER, unit=unit)}, [], PI)
    assert made.managed == ()
    assert files(made, keep=True) == (files(made, keep=True)[-1],)
    assert any(unit in gap and why in gap for gap in made.gaps())


@pytest.mark.parametrize("unit", ["mosquitto.service", "nginx.service", "telegraf.service"])
def test_other_services_may_be_managed(unit: str) -> None:
    assert protected(unit) == ""


@pytest.mark.parametrize(
    ("change", "host", "why"),
    [
        ({"loaded": False}, {}, "no such service"),
        ({"own": {"RootDirectory": ("/srv/jail",)}}, {}, "a root of its own"),
        ({"missing": ("/usr/sbin/gone",)}, {}, "/usr/sbin/gone is not there"),
        ({"programs": ()}, {}, "no program"),
        ({}, {"systemd": 247}, "247 has no ExecPaths"),
    ],
)
def test_what_cannot_be_confined_is_refused_by_name(
    change: dict[str, object], host: dict[str, int], why: str
) -> None:
    made = plan_service(WISH, replace(BROKER, **change), replace(PI, **host))  # type: ignore[arg-type]
    assert made.lines == ()
    assert why in made.refused


def test_what_starts_other_peoples_programs_needs_a_list() -> None:
    cron = replace(BROKER, unit="cron.service")
    assert "list them in exec" in plan_service(Wish("cron.service"), cron, PI).refused
    assert plan_service(Wish("cron.service", exec=("/usr/bin/sh",)), cron, PI).lines


@pytest.mark.parametrize(
    ("wish", "change", "absent"),
    [
        ({"jit": True}, {}, "MemoryDenyWriteExecute"),
        ({}, {"jit": "it maps libjvm.so"}, "MemoryDenyWriteExecute"),
        ({"namespaces": True}, {}, "RestrictNamespaces"),
        ({}, {"namespaces": "a process of its in another mount namespace"}, "RestrictNamespaces"),
        ({}, {"own": {"DevicePolicy": ("strict",)}}, "DevicePolicy"),
        ({}, {"own": {"PrivateDevices": ("yes",)}}, "DevicePolicy"),
        ({}, {"own": {"NoExecPaths": ("/",), "ExecPaths": ("/usr",)}}, "NoExecPaths"),
        ({}, {"own": {"SystemCallFilter": ("@system-service",)}}, "SystemCallFilter"),
        ({"network": "none"}, {"own": {"IPAddressDeny": ("any",)}}, "IPAddressDeny"),
    ],
)
def test_what_would_break_or_widen_is_left_out(
    wish: dict[str, object], change: dict[str, object], absent: str
) -> None:
    service = replace(BROKER, **change)  # type: ignore[arg-type]
    made = plan_service(replace(WISH, **wish), service, PI)  # type: ignore[arg-type]
    assert made.lines
    assert absent not in [name for name, _ in made.lines]
    (said,) = [i for i in made.items if i.name == absent]
    assert said.state in (State.KEPT, State.ALREADY)
    assert said.why or said.state is State.ALREADY


def test_code_made_at_run_time_keeps_memory_files_too() -> None:
    assert ("SystemCallFilter", "~@mount:EPERM") in lines(replace(WISH, jit=True))


def test_an_allow_list_of_the_units_own_that_is_too_wide_is_a_gap() -> None:
    own = {"SystemCallFilter": ("@system-service",)}
    live = {"SystemCallFilter": "accept memfd_create read"}
    made = plan([WISH], {WISH.unit: replace(BROKER, own=own, live=live)}, [], PI)
    assert item(made, WISH.unit, "SystemCallFilter").state is State.KEPT
    assert any("memfd_create" in gap for gap in made.gaps())


@pytest.mark.parametrize(
    ("network", "peers", "allowed"),
    [
        ("policy", ("192.0.2.7", "2001:db8::/64"), ["", "192.0.2.7", "2001:db8::/64", "localhost"]),
        ("policy", (), ["", "localhost"]),
        ("loopback", ("192.0.2.7",), ["", "localhost"]),
        ("none", ("192.0.2.7",), [""]),
    ],
)
def test_addresses_are_those_of_the_policy(
    network: str, peers: tuple[str, ...], allowed: list[str]
) -> None:
    got = lines(replace(WISH, network=network, peers=peers))
    assert ("IPAddressDeny", "any") in got
    assert [v for n, v in got if n == "IPAddressAllow"] == allowed


@pytest.mark.parametrize(
    ("peers", "host", "why"),
    [(None, {}, "names a host"), ((), {"bpf": False}, "version 1")],
)
def test_addresses_that_cannot_be_filtered_here_are_said(
    peers: tuple[str, ...] | None, host: dict[str, bool], why: str
) -> None:
    wish = replace(WISH, network="policy", peers=peers)
    made = plan([wish], {WISH.unit: BROKER}, [], replace(PI, **host))  # type: ignore[arg-type]
    said = item(made, WISH.unit, "IPAddressDeny")
    assert said.state is State.NOT_HERE
    assert why in said.why
    assert not [n for n, _ in made.services[0].lines if n.startswith("IPAddress")]


def test_devices_it_holds_or_is_given_stay_open() -> None:
    got = lines(replace(WISH, devices=("/dev/ttyUSB0",)), replace(BROKER, devices=("/dev/i2c-1",)))
    assert [v for n, v in got if n == "DeviceAllow"] == ["/dev/i2c-1 rw", "/dev/ttyUSB0 rw"]


def test_a_place_below_another_is_not_named_twice() -> None:
    wish = replace(WISH, exec=(f"{LIBS}/gconv", "/opt/plant", "/opt/plantation"))
    assert exec_paths(wish, BROKER) == (
        "/opt/plant",
        "/opt/plantation",
        LIBS,
        "/usr/sbin/mosquitto",
    )


def test_what_others_may_write_is_said() -> None:
    made = plan_service(WISH, replace(BROKER, loose=("/opt/plant/run",)), PI)
    assert "/opt/plant/run" in made.items[0].breaks


def test_a_plan_is_the_same_before_and_after_it_was_applied() -> None:
    before = plan_service(WISH, BROKER, PI)
    live = {
        "NoExecPaths": " ".join(v for n, v in before.lines if n == "NoExecPaths"),
        "ExecPaths": f"-{LIBS} -/usr/sbin/mosquitto",
        "BindReadOnlyPaths": f"-{LIBS}:{LIBS}:rbind -/usr/sbin/mosquitto:/usr/sbin/mosquitto:rbind",
        "NoNewPrivileges": "yes",
        "MemoryDenyWriteExecute": "yes",
        "RestrictNamespaces": "yes",
        "SystemCallFilter": "~memfd_create mount umount2",
        "DevicePolicy": "closed",
    }
    after = plan_service(WISH, replace(BROKER, live=live), PI)
    assert after.lines == before.lines
    assert {i.state for i in before.items if i.name != "IPAddressDeny"} == {State.CHANGE}
    assert {i.state for i in after.items if i.name != "IPAddressDeny"} == {State.ALREADY}


@pytest.mark.parametrize(
    ("name", "value", "live", "so"),
    [
        ("NoExecPaths", "/", "/", True),
        ("NoExecPaths", "/", "/srv", False),
        ("ExecPaths", "-/usr/lib", "-/usr/lib /usr/bin/x", True),
        ("ExecPaths", "-/usr/lib", "/usr/lib64", False),
        ("NoNewPrivileges", "yes", "no", False),
        ("IPAddressDeny", "any", "::/0 0.0.0.0/0", True),
        ("IPAddressDeny", "any", "0.0.0.0/0", False),
        ("IPAddressAllow", "localhost", "127.0.0.0/8 ::1/128", True),
        ("IPAddressAllow", "192.0.2.7", "192.0.2.7/32", True),
        ("IPAddressAllow", "192.0.2.7", "192.0.2.8/32", False),
        ("IPAddressAllow", "", "", True),
        ("SystemCallFilter", "~@mount:EPERM memfd_create:EPERM", "~mount memfd_create", True),
        ("SystemCallFilter", "~@mount:EPERM memfd_create:EPERM", "~mount", False),
        ("SystemCallFilter", "~@mount:EPERM", "read write", False),
        ("DeviceAllow", "/dev/ttyUSB0 rw", "/dev/ttyUSB0 rw", True),
        ("DeviceAllow", "/dev/ttyUSB0 rw", "/dev/ttyUSB1 rw", False),
    ],
)
def test_what_systemd_has_loaded_is_read_for_what_it_says(
    name: str, value: str, live: str, so: bool
) -> None:
    assert holds(name, value, live) is so


def test_directives_are_read_as_systemd_reads_them() -> None:
    unit = "[Service]\n# ExecStart=/no\nExecStart=/usr/bin/a \\\n  -b\nIPAddressAllow=10.0.0.1\n"
    dropin = "[Service]\nExecStart=\nExecStart = /usr/bin/c\n;IPAddressAllow=x\n"
    assert directives((unit, dropin)) == {
        "ExecStart": ("/usr/bin/c",),
        "IPAddressAllow": ("10.0.0.1",),
    }
    assert directives((unit,))["ExecStart"] == ("/usr/bin/a    -b",)


@pytest.mark.parametrize(
    ("live", "named"),
    [
        ({"StateDirectory": "plant"}, ["/var/lib/plant", "/var/lib/private/plant"]),
        ({"RuntimeDirectory": "a b:c"}, ["/run/a", "/run/b"]),
        ({"ReadWritePaths": "-/srv/data +/srv/more"}, ["/srv/data", "/srv/more"]),
        ({"ReadOnlyPaths": "/srv/ro"}, ["/srv/ro"]),
        ({"BindPaths": "/opt/x:/mnt/y:rbind /mnt/z:/mnt/z:rbind"}, ["/mnt/y", "/mnt/z"]),
        ({"TemporaryFileSystem": "/srv:ro"}, ["/srv"]),
        ({}, ["/tmp", "/dev/shm", "/usr", "/run"]),
    ],
)
def test_every_place_with_a_mount_of_its_own_is_closed_by_name(
    live: dict[str, str], named: list[str]
) -> None:
    """systemd leaves each of them out of NoExecPaths=/ (seen on 257)."""
    got = [v for n, v in lines(WISH, replace(BROKER, live=live)) if n == "NoExecPaths"]
    assert {f"-{path}" for path in named} <= set(got)


def test_what_may_be_executed_is_not_closed_by_name() -> None:
    got = lines(replace(WISH, exec=("/opt",)), replace(BROKER, live={"ReadWritePaths": LIBS}))
    closed = [v for n, v in got if n == "NoExecPaths"]
    assert "-/opt" not in closed
    assert f"-{LIBS}" not in closed


# --- writable places -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "state", "method", "options"),
    [
        (TMP, State.CHANGE, "dropin", "mode=1777,nosuid,nodev,size=50%%,noexec"),
        (Mount("/var/tmp"), State.CHANGE, "bind", "nosuid,nodev"),
        (Mount("/dev/shm", mounted=True, options=("rw", "nosuid", "nodev")), State.CHANGE,
         "remount", "nosuid,nodev"),
        (Mount("/dev/shm", mounted=True, options=("rw", "noatime")), State.CHANGE, "remount",
         "noatime"),
        (Mount("/run/lock", mounted=True, options=("rw", "noexec")), State.ALREADY, "", ""),
        (replace(TMP, unit_options="exec,nodev"), State.CHANGE, "dropin", "nodev,noexec"),
        (Mount("/nowhere", exists=False), State.NOT_HERE, "", ""),
        (Mount("/usr/local"), State.NOT_HERE, "", ""),
        (Mount("/"), State.NOT_HERE, "", ""),
        (Mount("/var/lib/dpkg"), State.NOT_HERE, "", ""),
        (Mount("/run/user"), State.NOT_HERE, "", ""),
        (Mount("/media"), State.NOT_HERE, "", ""),
    ],
)  # fmt: skip
def test_each_place_and_how_it_is_made_so(
    facts: Mount, state: State, method: str, options: str
) -> None:
    made = plan([], {}, [facts], PI)
    assert item(made, facts.path).state is state
    got = [(m.method, m.options if m.method == "dropin" else m.flags) for m in made.mounts]
    assert got == ([(method, options)] if method else [])


@pytest.mark.parametrize(
    "applied",
    [
        replace(TMP, options=("rw", "noexec"), method="dropin"),
        Mount("/var/tmp", mounted=True, options=("rw", "nosuid", "nodev", "noexec", "relatime"),
              method="bind"),
        Mount("/dev/shm", mounted=True, options=("rw", "nosuid", "noexec"), method="remount"),
    ],
)  # fmt: skip
def test_a_place_of_ours_stays_planned(applied: Mount) -> None:
    made = plan([], {}, [applied], PI)
    assert item(made, applied.path).state is State.ALREADY
    assert [m.method for m in made.mounts] == [applied.method]


def test_a_folder_mounted_over_itself_is_planned_alike_before_and_after() -> None:
    now = ("rw", "nosuid", "nodev", "noexec", "noatime")
    after = Mount("/var/tmp", mounted=True, options=now, method="bind")
    first, second = (plan([], {}, [facts], PI) for facts in (Mount("/var/tmp"), after))
    assert files(first, keep=True) == files(second, keep=True)


# --- sysctls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "name", "state", "why"),
    [
        ({}, "vm.memfd_noexec", State.CHANGE, ""),
        ({"kernel": (6, 4)}, "vm.memfd_noexec", State.NOT_HERE, "every memfd"),
        ({"kernel": (6, 1), "sysctls": {}}, "vm.memfd_noexec", State.NOT_HERE, "from 6.3 on"),
        ({"memfd": ("docker",)}, "vm.memfd_noexec", State.KEPT, "docker"),
        ({"userns": ("podman",)}, "user.max_user_namespaces", State.KEPT, "podman"),
        ({}, "user.max_user_namespaces", State.CHANGE, ""),
        ({"sysctls": {"user.max_user_namespaces": "0"}}, "user.max_user_namespaces",
         State.ALREADY, ""),
        ({}, "kernel.yama.ptrace_scope", State.NOT_HERE, "no such sysctl"),
        ({}, "fs.protected_regular", State.ALREADY, ""),
        ({"locked": "read-only"}, "vm.memfd_noexec", State.NOT_HERE, "read-only"),
        ({"io_uring": ("mariadbd",)}, "kernel.io_uring_disabled", State.KEPT, "mariadbd"),
        ({"sysctls": {"kernel.yama.ptrace_scope": "3"}}, "kernel.yama.ptrace_scope",
         State.ALREADY, ""),
    ],
)  # fmt: skip
def test_each_sysctl(change: dict[str, object], name: str, state: State, why: str) -> None:
    made = plan([], {}, [], replace(PI, **change))  # type: ignore[arg-type]
    said = item(made, name)
    assert said.state is state
    assert why in said.why
    assert (name in dict(made.sysctls)) is (state is State.CHANGE)
    if said.is_gap:
        assert any(name in gap for gap in made.gaps())


def test_debians_own_switch_is_preferred_for_user_namespaces() -> None:
    name = "kernel.unprivileged_userns_clone"
    made = plan([], {}, [], replace(PI, sysctls={**PI.sysctls, name: "1"}))
    assert dict(made.sysctls)[name] == "0"
    assert "user.max_user_namespaces" not in dict(made.sysctls)


def test_a_sysctl_of_ours_stays_planned_and_keep_plans_none() -> None:
    applied = replace(
        PI, sysctls={**PI.sysctls, "vm.memfd_noexec": "2"}, before={"vm.memfd_noexec": "0"}
    )
    assert dict(plan([], {}, [], applied).sysctls)["vm.memfd_noexec"] == "2"
    assert item(plan([], {}, [], applied), "vm.memfd_noexec").state is State.ALREADY
    assert plan([], {}, [], PI, sysctls=False).sysctls == ()
    assert "user.max_user_namespaces" not in dict(
        plan([], {}, [], PI, user_namespaces=False).sysctls
    )


# --- files ---------------------------------------------------------------------------------------


def test_files_for_good_and_for_a_trial() -> None:
    made = plan([WISH], {WISH.unit: BROKER}, [TMP, Mount("/var/tmp")], PI)
    kept = {f.path: f for f in files(made, keep=True)}
    assert set(kept) == {
        "/etc/systemd/system/mosquitto.service.d/50-edgewarden.conf",
        "/etc/systemd/system/tmp.mount.d/50-edgewarden.conf",
        "/etc/systemd/system/edgewarden-noexec.service",
        "/etc/systemd/system/sysinit.target.wants/edgewarden-noexec.service",
        SYSCTL_FILE,
    }
    assert "vm.memfd_noexec = 2\n" in kept[SYSCTL_FILE].text
    unit = kept["/etc/systemd/system/edgewarden-noexec.service"].text
    assert "ExecStart=mount --bind -o nosuid,nodev,noexec /var/tmp /var/tmp\n" in unit
    assert "ExecStart=mount -o remount,bind,nosuid,nodev,noexec /tmp\n" in unit, "mounted before"
    trial = files(made, keep=False)
    assert all(f.path.startswith("/run/systemd/system/") for f in trial), "a boot ends a trial"
    assert len(trial) == 3


def test_nothing_wished_is_no_service_file() -> None:
    assert files(plan([], {}, [], replace(PI, sysctls={})), keep=True) == ()


# --- addresses of the policy ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "peers"),
    [
        ([], ()),
        ([(("a.service",), (), ("192.0.2.7",), (), False, False)], ("192.0.2.7",)),
        ([(("b.service",), (), ("192.0.2.7",), (), False, False)], ()),
        ([((), (), ("192.0.2.7",), (), True, False)], ("192.0.2.7",)),
        ([((), ("1000",), ("192.0.2.7",), (), False, False)], ()),
        ([(("/x.slice/a.service",), (), (), (), True, False)], ("any",)),
        ([(("a.service",), (), (), ("api.example.org",), True, False)], None),
        ([(("a.service",), (), ("192.0.2.7",), (), False, True)], None),
    ],
)
def test_an_egress_allowlist_as_far_as_systemd_can_say_it(
    rules: list[PeerRow], peers: tuple[str, ...] | None
) -> None:
    assert peers_of("a.service", rules) == peers


def test_a_dropin_is_read_as_it_was_written() -> None:
    made = plan_service(replace(WISH, network="none"), BROKER, PI)
    assert parse_dropin(WISH.unit, dropin(made)).lines == made.lines
