"""The network area on a real kernel: rows N1 to N5 of the acceptance list, trials, names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.settings.schema import Network
from edgewarden.wire.lean import seal
from edgewarden.wire.local import Answer, NameAnswer, NetworkVerdict, Request, encode
from edgewarden.wire.network_table import MAGIC, NetworkTable
from tests.system.exec_world import AGENT, PYTHON, private_tmpfs
from tests.system.net_world import (
    ALLOWED,
    DENIED,
    GATEWAY,
    OTHER,
    OTHER6,
    PEER,
    PEER6,
    UID,
    NetWorld,
    net_world,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "nft", "net-namespaces")]

ONE_PEER = f"""
[[egress]]
name = "plant"
uid = {UID}
address = ["{PEER}", "{PEER6}"]
protocol = ["tcp", "udp"]
port = {ALLOWED}
"""
DENY_MS = 5.0
RETRY_MS = 500.0
"""Well below TCP's first try again, a second later, of a SYN that nothing answers; and more than a
busy machine keeps one try in fifty waiting for."""
TRIAL_S = 30
"""A trial in which a test looks at something: machines stand still for seconds."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NetWorld]:
    with net_world(tmp_path) as made:
        made.serve(PEER, OTHER, PEER6, OTHER6)
        yield made


def enforced(world: NetWorld, text: str = ONE_PEER, network: Network | None = None) -> None:
    world.write(text, network)
    world.start_gate()
    answer = world.mode("enforce")
    assert answer.ok, answer.text
    assert world.network_stats().armed


# --- N1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [PEER, PEER6])
def test_n1_a_denied_connect_fails_at_once_and_an_allowed_one_works(
    world: NetWorld, address: str
) -> None:
    enforced(world)
    assert world.connect_says("tcp", address, ALLOWED) == ""
    assert world.connect_says("udp", address, ALLOWED) == ""
    for kind in ("tcp", "udp"):
        tries = world.connect_tries(kind, address, DENIED, tries=50)
        assert {said for said, _ in tries} <= {"EHOSTUNREACH", "EACCES", "EPERM", "ECONNREFUSED"}
        assert statistics.median(ms for _, ms in tries) < DENY_MS
    assert world.connect_says("tcp", address, DENIED, uid=0) == "", "root is never managed"
    assert world.connect_says("tcp", address, DENIED, uid=UID + 1) == "", "nor is anybody unnamed"


def test_n1_a_storm_of_denied_connects_never_waits(world: NetWorld) -> None:
    """The kernel limits ICMP errors; beyond that a TCP reset answers."""
    enforced(world)
    tries = world.connect_tries("tcp", PEER, DENIED, tries=3000)
    assert {said for said, _ in tries} == {"EHOSTUNREACH", "ECONNREFUSED"}
    took_ms = [ms for _, ms in tries]
    assert statistics.median(took_ms) < DENY_MS
    assert statistics.quantiles(took_ms, n=100)[97] < RETRY_MS


@pytest.fixture(params=["app.service", r"system-open\x2dvpn.slice"])
def group(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """A control group for a unit, below a slice of its own; (path for the policy, folder)."""
    root = Path("/sys/fs/cgroup/unified")
    root = root if (root / "cgroup.controllers").exists() else Path("/sys/fs/cgroup")
    slice_ = root / f"ewtest{os.getpid()}.slice"
    made = slice_ / str(request.param)
    made.mkdir(parents=True)
    try:
        yield f"/{slice_.name}/{made.name}", made
    finally:
        for folder in (made, slice_):
            if folder.exists():
                folder.rmdir()


def connect_in(world: NetWorld, folder: Path, port: int) -> str:
    """As root, but inside a control group."""
    join = f"echo $$ > '{folder}/cgroup.procs' && exec \"$@\""
    tool = world.tool(world.gateway, "connect", "tcp", PEER, port, 1)
    done = subprocess.run(
        ["sh", "-c", join, "sh", *tool], check=True, capture_output=True, text=True
    )
    return str(json.loads(done.stdout)[0][0])


@pytest.mark.needs("root", "nft", "net-namespaces", "cgroup2")
def test_n1_a_unit_is_managed_whoever_it_runs_as_and_again_after_a_restart(
    world: NetWorld, group: tuple[str, Path]
) -> None:
    unit, folder = group
    enforced(world, ONE_PEER.replace(f"uid = {UID}", f"unit = '{unit}'"))
    assert connect_in(world, folder, ALLOWED) == ""
    assert connect_in(world, folder, DENIED) == "EHOSTUNREACH"
    for _ in range(5):  # systemd makes the group anew at every start of the unit
        folder.rmdir()
        folder.mkdir()
        for _ in range(2):  # once round its loop gate has been told; how soon is the machine's
            world.network_stats()
        assert connect_in(world, folder, DENIED) == "EHOSTUNREACH"
    assert world.connect_says("tcp", PEER, DENIED, uid=UID) == ""


def test_n1_the_first_rule_that_holds_decides_and_is_named(world: NetWorld) -> None:
    text = f"""
[[egress]]
name = "not-this-one"
action = "deny"
uid = {UID}
address = "{PEER}"
protocol = "tcp"
port = {DENIED}

[[egress]]
name = "the-plant"
uid = {UID}
address = "10.77.0.0/24"
"""
    world.write(text)
    world.start_gate()
    link = world.connect("gate-facts.sock")
    assert world.mode("enforce").ok
    assert world.connect_says("tcp", PEER, ALLOWED) == ""
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    assert world.connect_says("tcp", PEER6, DENIED) != ""
    facts = verdicts(world, link, 2)
    assert [(v.rule, v.decision, v.direction, v.uid, v.port) for v in facts] == [
        ("not-this-one", "deny", "egress", UID, DENIED),
        (f"unlisted:uid-{UID}", "deny", "egress", UID, DENIED),
    ]
    assert facts[0].address == socket.inet_aton(PEER)
    assert not any(v.by_name for v in facts)


def test_every_refused_packet_is_counted_once_and_over_a_new_table(world: NetWorld) -> None:
    enforced(world)
    world.connect_tries("udp", PEER, DENIED, tries=30)
    wait_until(lambda: world.network_stats().denied == 30)
    world.connect_tries("udp", PEER, DENIED, tries=7)
    world.write(ONE_PEER + ONE_PEER.replace("plant", "other"))
    assert world.reload().ok
    assert world.network_stats().denied == 37, "counted before the old table went"
    assert world.mode("observe").ok
    world.connect_tries("udp", PEER, DENIED, tries=5)
    wait_until(lambda: world.network_stats().would_deny == 5)
    assert world.network_stats().denied == 37


def verdicts(world: NetWorld, link: socket.socket, count: int) -> list[NetworkVerdict]:
    from edgewarden.wire.local import FACTS, parse

    found: list[NetworkVerdict] = []
    link.settimeout(60)
    while len(found) < count:
        message = parse(link.recv(4096), *FACTS)
        if isinstance(message, NetworkVerdict):
            found.append(message)
    return found


def test_what_comes_from_outside_needs_a_rule_but_ssh_does_not(world: NetWorld) -> None:
    text = f"""
[[ingress]]
name = "plant"
address = "{OTHER}"
protocol = "tcp"
port = {ALLOWED}
"""
    with serving(world, GATEWAY, (ALLOWED, DENIED, 22)):
        enforced(world, text)
        assert world.connect_says("tcp", GATEWAY, 22, uid=0, where=world.peer) == ""
        assert world.connect_says("tcp", GATEWAY, DENIED, uid=0, where=world.peer) == "TIMEOUT"
        # from PEER, which the rule does not name
        assert world.connect_says("tcp", GATEWAY, ALLOWED, uid=0, where=world.peer) == "TIMEOUT"
        from_other(world, "")
        assert world.connect_says("tcp", PEER, DENIED, uid=0) == "", "outward is nobody's business"


NOBODY_IN = "[[ingress]]\nname = 'none'\naddress = '192.0.2.1'\n"


@pytest.mark.parametrize("address", [PEER, PEER6])
def test_who_was_connected_before_gate_started_is_heard(world: NetWorld, address: str) -> None:
    """An uplink or tunnel of this gateway that is idle while the first table is put in force."""
    with contextlib.ExitStack() as ends:

        def start(where: str, name: str) -> subprocess.Popen[str]:
            pipe = subprocess.PIPE
            command = world.tool(where, name, address, 9003)
            made = ends.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            ends.callback(made.kill)
            assert heard(made) == "ready"
            return made

        def heard(one: subprocess.Popen[str]) -> str:
            assert one.stdout is not None
            return one.stdout.readline().strip()

        other = start(world.peer, "says")
        ours = start(world.gateway, "hears")
        enforced(world, NOBODY_IN)
        assert world.connect_says("tcp", GATEWAY, 9004, uid=0, where=world.peer) == "TIMEOUT"
        assert other.stdin is not None
        other.stdin.write("news\n")
        other.stdin.flush()
        assert heard(ours) == "news"


SSHD = """
import ctypes, os, shutil, socket, sys
libc = ctypes.CDLL(None)
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
assert libc.mount(b"ew-sshd", b"/usr/local/sbin", b"tmpfs", 0, None) == 0
shutil.copy("/usr/bin/python3", "/usr/local/sbin/sshd")
serve = "import socket, sys; s = socket.create_server(('10.77.0.1', int(sys.argv[1]))); " \\
    "print('ready', flush=True); sys.stdin.read()"
os.execv("/usr/local/sbin/sshd", ["sshd", "-S", "-c", serve, sys.argv[1]])
"""
"""A program at the place of an ssh server, in a mount namespace of its own."""


def test_root_gets_in_wherever_his_ssh_server_listens(world: NetWorld) -> None:
    """Review B, M5: only [network] ssh_port was let in, and another port was cut."""

    def ssh(port: int) -> subprocess.Popen[str]:
        command = world.inside(world.gateway, "/usr/bin/python3", "-c", SSHD, str(port))
        made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        world._servers.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        return made

    def reaches(port: int) -> bool:
        return world.connect_says("tcp", GATEWAY, port, uid=0, where=world.peer) == ""

    ssh(2222)
    with serving(world, GATEWAY, (DENIED,)):
        world.write("[[ingress]]\nname = 'none'\naddress = '192.0.2.1'\n", Network(limits="on"))
        world.start_gate()
        link = world.connect("gate-facts.sock")
        assert world.mode("enforce").ok
        assert reaches(2222)
        assert not reaches(DENIED)
        assert "2222" in world.wait_for_alarm(link, "EW-NET-040").text
        ssh(2200)  # moved while the rules are in force
        wait_until(lambda: reaches(2200))


def test_the_first_rules_need_no_restart_while_programs_are_enforced(
    world: NetWorld, tmp_path: Path
) -> None:
    with private_tmpfs() as filesystem:
        world.filesystem = filesystem
        world.policy("observe")
        world.start_guard()
        world.start_gate()
        wait_until(lambda: world.status().guard)
        assert world.set_mode("enforce").ok
        assert world.status().armed
        world.generation += 1
        world.write_network(ONE_PEER, Network(limits="on"))
        assert world.reload().ok
        assert world.mode("enforce").ok
        assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
        assert world.status().armed


def from_other(world: NetWorld, wanted: str) -> None:
    """Connect from OTHER: for a moment the only address of its network."""
    subprocess.run(
        ["ip", "-n", world.peer, "route", "replace", "10.77.0.0/24", "dev", "gw0", "src", OTHER],
        check=True,
    )
    assert world.connect_says("tcp", GATEWAY, ALLOWED, uid=0, where=world.peer) == wanted


class serving:
    """Accept on the gateway's side while the block runs."""

    def __init__(self, world: NetWorld, address: str, ports: tuple[int, ...]) -> None:
        command = world.tool(world.gateway, "serve", address, "--", *ports)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)


# --- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "decision"), [("learn", "learned"), ("observe", "would_deny")])
def test_learn_and_observe_let_through_and_tell(world: NetWorld, mode: str, decision: str) -> None:
    world.write(ONE_PEER)
    world.start_gate()
    link = world.connect("gate-facts.sock")
    assert world.mode(mode).ok
    assert world.connect_says("tcp", PEER, DENIED) == ""
    (told,) = verdicts(world, link, 1)
    assert (told.decision, told.rule, told.mode) == (decision, f"unlisted:uid-{UID}", mode)
    assert not world.network_stats().armed


def test_a_gate_without_network_rules_makes_no_table(world: NetWorld) -> None:
    world.write("")
    (world.state / "policy" / "network.table").unlink()
    world.start_gate()
    assert world.mode("enforce").ok
    assert not world.network_stats().armed
    assert "edgewarden" not in world.nft("list", "tables")
    maps = Path(f"/proc/{world.gate_pid}/maps").read_text()
    assert "libnftables" not in maps, "a library for nothing"


def test_rules_that_go_away_take_the_table_with_them(world: NetWorld) -> None:
    enforced(world)
    world.write("")
    assert world.reload().ok
    assert "edgewarden" not in world.nft("list", "tables")
    assert world.connect_says("tcp", PEER, DENIED) == ""


def test_a_stop_takes_the_table_away_unless_it_enforces(world: NetWorld) -> None:
    enforced(world)
    os.kill(world.gate_pid, 15)
    wait_until(world.gate_is_gone)
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    world.start_gate()
    assert world.network_stats().armed, "a person's word is kept over a restart"
    assert world.mode("observe").ok
    os.kill(world.gate_pid, 15)
    wait_until(world.gate_is_gone)
    assert "edgewarden" not in world.nft("list", "tables")


# --- N2 ------------------------------------------------------------------------------------------


def test_n2_rules_remain_when_gate_is_killed(world: NetWorld) -> None:
    enforced(world)
    world.kill_gate()
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    assert world.connect_says("tcp", PEER, ALLOWED) == ""
    world.start_gate()
    assert world.network_stats().armed
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"


def test_n2_an_unconfirmed_commit_is_lifted_also_when_gate_is_dead(world: NetWorld) -> None:
    world.write(ONE_PEER)
    world.start_gate()
    assert world.mode("enforce", confirm_s=TRIAL_S).ok
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    world.kill_gate()
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    wait_until(lambda: world.connect_says("tcp", PEER, DENIED) == "", 3 * TRIAL_S)


def test_n2_an_unconfirmed_commit_goes_back_by_itself(world: NetWorld) -> None:
    world.write(ONE_PEER)
    world.start_gate()
    assert world.mode("enforce", confirm_s=TRIAL_S).ok
    assert world.network_stats().trial_s > 0
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    wait_until(lambda: world.network_stats().mode == "learn", 3 * TRIAL_S)
    assert world.connect_says("tcp", PEER, DENIED) == ""
    stats = world.network_stats()
    assert (stats.denied, stats.would_deny) == (1, 0)


def test_n2_a_trial_made_again_after_a_flush_still_ends_in_the_kernel(world: NetWorld) -> None:
    """Review B, H1: the table that gate made again had no dead man."""
    world.write(ONE_PEER)
    world.start_gate()
    began_mono = time.monotonic()
    assert world.mode("enforce", confirm_s=TRIAL_S).ok
    applied_mono = time.monotonic()
    with world.paused():
        world.nft("flush", "ruleset")
        time.sleep(2.5)  # so much less is left when the table is made again
    wait_until(lambda: world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH")
    world.kill_gate()
    looked_mono = time.monotonic()
    left = re.search(r"expires (\d+)s", world.nft("list", "set", "inet", "edgewarden", "trial"))
    assert left is not None, "the dead man is in the kernel"
    # gate rounds up, the kernel's listing down.
    assert int(left[1]) <= TRIAL_S + 1 - (looked_mono - applied_mono), "no more than was left"
    wait_until(lambda: world.connect_says("tcp", PEER, DENIED) == "", 3 * TRIAL_S)
    assert time.monotonic() - began_mono > TRIAL_S - 1, "nor was it lifted for another reason"


def test_n2_a_confirmed_commit_stays(world: NetWorld) -> None:
    world.write(ONE_PEER)
    world.start_gate()
    assert world.mode("enforce", confirm_s=300).ok
    assert world.confirm_network().ok
    assert "trial" not in world.nft("list", "sets")
    assert world.network_stats().trial_s == 0
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"


# --- N3 ------------------------------------------------------------------------------------------

WITNESS = f"""
table inet witness {{
  counter escaped {{ }}
  counter tried {{ }}
  chain before {{ type filter hook output priority -100; policy accept;
    meta skuid {UID} ip daddr {OTHER} counter name tried; }}
  chain after {{ type filter hook output priority 100; policy accept;
    meta skuid {UID} ip daddr {OTHER} counter name escaped; }}
}}
"""


def many_peers(count: int, base: int) -> str:
    peers = ", ".join(f'"10.{base}.{i >> 8}.{i & 255}"' for i in range(count - 1))
    return f"""
[[egress]]
name = "many"
uid = {UID}
address = ["{PEER}", {peers}]
protocol = "udp"
port = 9
"""


def pss_bytes(world: NetWorld) -> int:
    text = Path(f"/proc/{world.gate_pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) * 1024


def counted(world: NetWorld, name: str) -> int:
    text = world.nft("list", "counter", "inet", "witness", name)
    found = re.search(r"packets (\d+)", text)
    assert found is not None
    return int(found[1])


REPLACED = 15


def test_n3_five_thousand_elements_are_replaced_without_a_window(world: NetWorld) -> None:
    enforced(world)
    before = pss_bytes(world)
    world.write(many_peers(5000, 1))
    assert world.reload().ok
    subprocess.run(
        world.inside(world.gateway, "nft", "-f", "-"), input=WITNESS, text=True, check=True
    )
    command = world.tool(world.gateway, "spray", OTHER, PEER, 9, 300.0, uid=UID)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sprayer:
        wait_until(lambda: counted(world, "tried") > 100)
        for replaced in range(REPLACED):
            world.write(many_peers(5000, 2 + replaced))
            assert world.reload().ok
        wait_until(lambda: counted(world, "tried") > 1000)
        assert sprayer.poll() is None, "it was over before the last table came"
        sprayer.terminate()
        said, _ = sprayer.communicate(timeout=60)
    counts = json.loads(said)
    assert counted(world, "tried") > 1000
    assert counted(world, "escaped") == 0, "no moment without rules"
    assert set(counts[PEER]) == {"sent"}, "and none in which an allowed peer is refused"
    assert pss_bytes(world) - before < 2 << 20, "and the memory it took is given back"
    listed = world.nft("list", "set", "inet", "edgewarden", "e0")
    assert listed.count(" . udp . 9") == 5000


# --- N4 ------------------------------------------------------------------------------------------

FOREIGN = """
table inet firewall {
  set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
  chain input { type filter hook input priority 0; policy accept; ip saddr @blocked drop; }
}
table ip nat {
  chain post { type nat hook postrouting priority 100; masquerade random; }
}
table ip6 edgewarden {
  chain input { type filter hook input priority 0; policy accept; }
}
"""


def foreign(world: NetWorld) -> list[object]:
    """The whole ruleset without our table."""
    listed = json.loads(world.nft("-j", "list", "ruleset"))["nftables"]
    return [
        entry
        for entry in listed
        if not any(
            isinstance(v, dict)
            and v.get("family") == "inet"
            and "edgewarden" in (v.get("table"), v.get("name"))
            for v in entry.values()
        )
    ]


def test_n4_foreign_tables_are_untouched(world: NetWorld) -> None:
    subprocess.run(
        world.inside(world.gateway, "nft", "-f", "-"), input=FOREIGN, text=True, check=True
    )
    before = foreign(world)
    assert len(before) > 5
    enforced(world)
    assert foreign(world) == before
    world.write(many_peers(100, 3), Network(limits="on"))
    assert world.reload().ok
    for mode in ("observe", "learn", "enforce"):
        assert world.mode(mode).ok
        assert foreign(world) == before
    world.kill_gate()
    world.start_gate()
    assert world.mode("learn").ok
    os.kill(world.gate_pid, 15)
    wait_until(world.gate_is_gone)
    assert foreign(world) == before
    assert "inet edgewarden" not in world.nft("list", "tables")


def test_our_table_removed_by_somebody_is_made_again_and_told(world: NetWorld) -> None:
    enforced(world)
    link = world.connect("gate-facts.sock")
    with world.paused():  # gate looks again and again, and might be sooner than we are
        world.nft("flush", "ruleset")
        assert world.connect_says("tcp", PEER, DENIED) == ""
    wait_until(lambda: world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH", 60)
    world.wait_for_alarm(link, "EW-NET-036")


@pytest.mark.parametrize("how", ["rules", "an-older-table"])
def test_our_table_changed_by_somebody_is_made_again_and_told(world: NetWorld, how: str) -> None:
    """``nft list ruleset`` into /etc/nftables.conf, which is loaded again much later."""
    enforced(world)
    older = world.nft("list", "ruleset")
    world.write(ONE_PEER.replace(f"port = {ALLOWED}", f"port = {DENIED}"))
    assert world.reload().ok
    link = world.connect("gate-facts.sock")
    with world.paused():
        if how == "rules":
            world.nft("flush", "table", "inet", "edgewarden")
        else:
            world.nft(f"flush ruleset\n{older}")
        assert world.connect_says("tcp", PEER, ALLOWED) == ""
    wait_until(lambda: world.connect_says("tcp", PEER, ALLOWED) == "EHOSTUNREACH", 60)
    assert world.connect_says("tcp", PEER, DENIED) == ""
    world.wait_for_alarm(link, "EW-NET-036")


@pytest.mark.parametrize("word", ["mode", "reload"])
def test_what_became_of_our_table_is_told_by_whoever_makes_it_again(
    world: NetWorld, word: str
) -> None:
    """A word of a person's in the five seconds before gate looks by itself."""
    enforced(world)
    link = world.connect("gate-facts.sock")
    with world.paused():
        world.nft("flush", "ruleset")
    if word == "mode":
        assert world.mode("enforce").ok
    else:
        world.write(ONE_PEER.replace(f"port = {ALLOWED}", f"port = {DENIED}"))
        assert world.reload().ok
    world.wait_for_alarm(link, "EW-NET-036")


def test_what_gate_does_to_its_own_table_is_nobodys_change(world: NetWorld) -> None:
    enforced(world)
    link = world.connect("gate-facts.sock")
    for mode, confirm_s in (("observe", 0), ("enforce", 0), ("learn", 0), ("enforce", 2)):
        assert world.mode(mode, confirm_s).ok
        world.write(ONE_PEER.replace(f"port = {ALLOWED}", f"port = {DENIED + confirm_s}"))
        assert world.reload().ok
    wait_until(lambda: "expires" not in world.nft("list", "table", "inet", "edgewarden"))
    assert world.mode("enforce").ok
    with world.paused():
        world.nft("flush", "ruleset")
    assert world.mode("observe").ok
    told = world.wait_for_alarm(link, "EW-NET-036")
    assert "removed" in told.text
    with pytest.raises(TimeoutError):
        world.wait_for_alarm(link, "EW-NET-036", within_s=3)


LOOKS = """
import sys
sys.path.insert(0, sys.argv[1])
from edgewarden.network.counters import Counters
ours = Counters("edgewarden")
ours.remember()
for _ in sys.stdin:
    print(ours.state() or "whole", flush=True)
"""


def test_what_others_do_with_their_own_tables_is_no_change_of_ours(world: NetWorld) -> None:
    enforced(world, BY_NAME)
    world.kill_gate()  # it would make its table again between a change and our look
    command = world.inside(world.gateway, *PYTHON, "-c", LOOKS, str(AGENT))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as looks:
        assert looks.stdin is not None
        assert looks.stdout is not None
        for change, state in (
            ("list tables", "whole"),
            ("add table ip other; add chain ip other x; add rule ip other x drop", "whole"),
            ("add element inet edgewarden h0v4 { 192.0.2.7 timeout 60s }", "whole"),
            ("add table inet edgewarden { flags dormant; }", "changed"),
            ("delete table inet edgewarden; add table inet edgewarden", "removed"),
        ):
            world.nft(change)
            looks.stdin.write("?\n")
            looks.stdin.flush()
            assert looks.stdout.readline().strip() == state, change


OWNER = """
import ctypes, sys
nft = ctypes.CDLL("libnftables.so.1")
nft.nft_ctx_new.restype = ctypes.c_void_p
context = ctypes.c_void_p(nft.nft_ctx_new(0))
text = b"flush ruleset; add table inet edgewarden { flags owner; }"
assert nft.nft_run_cmd_from_buffer(context, text) == 0
print("ready", flush=True)
sys.stdin.read()
"""
"""A program that takes our table's name for itself; the kernel frees it when it ends."""


def test_a_table_that_could_not_be_made_again_is_when_it_can(world: NetWorld) -> None:
    enforced(world)
    link = world.connect("gate-facts.sock")
    command = world.inside(world.gateway, "/usr/bin/python3", "-c", OWNER)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        world.wait_for_alarm(link, "EW-NET-031")
        assert world.network_stats().why_not
        owner.communicate(timeout=60)
    wait_until(lambda: world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH", 60)
    stats = world.network_stats()
    assert (stats.armed, stats.why_not) == (True, "")
    assert world.mode("enforce").ok


# --- N5 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda body: body + "chain broken { goto nowhere }\n", id="no-such-chain"),
        pytest.param(lambda body: body + "chain broken { frobnicate }\n", id="no-such-word"),
        pytest.param(lambda body: body.replace("meta skuid", "ip saddr @n"), id="set"),
        pytest.param(lambda body: body + "chain broken { ct count over 1 reject } }\n"
                     "table inet other { chain x { jump y }\n", id="second-table"),
    ],
)  # fmt: skip
def test_n5_a_broken_transaction_changes_nothing(
    world: NetWorld, broken: Callable[[str], str]
) -> None:
    enforced(world)
    before = world.nft("-s", "list", "ruleset")
    path = world.state / "policy" / "network.table"
    good = NetworkTable.load(path.read_bytes())
    values = [getattr(good, name) for name in NetworkTable.fields]  # type: ignore[attr-defined]
    bad = NetworkTable(good.generation + 1, *values[1:-1], broken(good.body))
    path.write_bytes(bad.dump())
    answer = world.reload()
    assert not answer.ok
    assert world.nft("-s", "list", "ruleset") == before
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    assert world.mode("enforce").ok, "the last table is still the one in use"
    assert world.nft("-s", "list", "ruleset") == before


def test_m5_a_table_of_a_lower_generation_changes_nothing(world: NetWorld) -> None:
    """Copied back, and tried at a reload and at a start."""
    world.write(ONE_PEER)
    enforced(world)
    before = world.nft("-s", "list", "ruleset")
    path = world.state / "policy" / "network.table"
    good = NetworkTable.load(path.read_bytes())
    values = [getattr(good, name) for name in NetworkTable.fields]  # type: ignore[attr-defined]
    path.write_bytes(NetworkTable(good.generation - 1, *values[1:]).dump())
    answer = world.reload()
    assert (answer.ok, answer.name) == (False, "older")
    assert world.nft("-s", "list", "ruleset") == before
    world.kill_gate()
    world.start_gate()
    assert "was in use" in world.network_stats().why_not
    assert world.nft("-s", "list", "ruleset") == before, "the kernel's stays as it is"
    accepted = world.request(Request("reload_older", "learn"))
    assert isinstance(accepted, Answer)
    assert accepted.ok, accepted
    assert world.network_stats().generation == good.generation - 1


@pytest.mark.parametrize(
    "data", [b"", seal(MAGIC, b"generation 1\nbody\n"), b"EWNETTB1" + b"x" * 60]
)
def test_n5_a_damaged_table_changes_nothing(world: NetWorld, data: bytes) -> None:
    enforced(world)
    (world.state / "policy" / "network.table").write_bytes(data)
    assert not world.reload().ok
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH"
    world.kill_gate()
    world.start_gate()
    stats = world.network_stats()
    assert stats.why_not
    assert not stats.armed
    assert world.connect_says("tcp", PEER, DENIED) == "EHOSTUNREACH", "the kernel's stays"
    refused = world.mode("enforce")
    assert (refused.ok, refused.name) == (False, "not_possible")


# --- names ---------------------------------------------------------------------------------------

BY_NAME = f"""
[[egress]]
name = "cloud"
uid = {UID}
host = ["api.example.org", "time.example.org"]
protocol = "tcp"
port = {ALLOWED}
"""


def answer(world: NetWorld, host: int = 0, *addresses: str, keep_s: int = 300) -> NameAnswer:
    version = 6 if addresses and ":" in addresses[0] else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    raw = tuple(socket.inet_pton(family, address) for address in addresses)
    return NameAnswer(host, world.generation, version, keep_s, raw)


def test_names_are_let_through_as_answered_and_labelled(world: NetWorld) -> None:
    enforced(world, BY_NAME)
    link = world.connect("gate-names.sock")
    assert world.connect_says("tcp", PEER, ALLOWED) == "EHOSTUNREACH"
    link.send(encode(answer(world, 0, PEER)))
    wait_until(lambda: world.connect_says("tcp", PEER, ALLOWED) == "")
    link.send(encode(answer(world, 1, PEER6)))
    wait_until(lambda: world.connect_says("tcp", PEER6, ALLOWED) == "")
    assert world.connect_says("tcp", OTHER, ALLOWED) == "EHOSTUNREACH"
    world.write(ONE_PEER.replace(PEER, "10.9.9.9").replace(PEER6, "fd99::1") + BY_NAME)
    assert world.reload().ok
    assert world.connect_says("tcp", PEER, ALLOWED) == "", "answers outlive a new policy"


def test_what_is_known_of_names_outlives_a_table_that_is_refused(world: NetWorld) -> None:
    """Review B, M4: what the refused table did not name was forgotten."""
    enforced(world, BY_NAME)
    link = world.connect("gate-names.sock")
    link.send(encode(answer(world, 0, PEER)))
    wait_until(lambda: world.connect_says("tcp", PEER, ALLOWED) == "")
    path = world.state / "policy" / "network.table"
    good = NetworkTable.load(path.read_bytes())
    other = BY_NAME.replace("api.", "other.").replace("time.", "another.")
    world.write(other)
    bad = NetworkTable.load(path.read_bytes())
    values = [getattr(bad, name) for name in NetworkTable.fields]  # type: ignore[attr-defined]
    path.write_bytes(NetworkTable(*values[:-1], "chain x { nonsense }").dump())
    assert not world.reload().ok
    assert world.mode("enforce").ok, "made anew, from what gate remembers"
    assert world.network_stats().generation == good.generation
    assert world.connect_says("tcp", PEER, ALLOWED) == ""


def test_answers_about_anything_else_are_refused(world: NetWorld) -> None:
    enforced(world, BY_NAME)
    facts = world.connect("gate-facts.sock")
    link = world.connect("gate-names.sock")
    for bad in (
        NameAnswer(2, world.generation, 4, 300, (socket.inet_aton(PEER),)),
        NameAnswer(0, world.generation + 1, 4, 300, (socket.inet_aton(PEER),)),
        answer(world, 0, "127.0.0.1"),
        answer(world, 0, "224.0.0.1"),
        answer(world, 0, "::1"),
    ):
        link.send(encode(bad))
    world.wait_for_alarm(facts, "EW-NET-037")
    link.send(encode(Request("mode", "observe", 0, "network")))  # not its business
    assert link.recv(100) == b"", "a client that says something else is closed"
    assert "elements" not in world.nft("list", "set", "inet", "edgewarden", "h0v4")
    assert world.connect_says("tcp", PEER, ALLOWED) == "EHOSTUNREACH"
    assert world.network_stats().mode == "enforce"


def test_a_captured_link_cannot_fill_a_name_without_end(world: NetWorld) -> None:
    enforced(world, BY_NAME)
    link = world.connect("gate-names.sock")
    for i in range(20):
        link.send(encode(answer(world, 0, *(f"10.{i}.0.{n}" for n in range(1, 17)))))
    last = "10.19.0.16"
    wait_until(lambda: last in world.nft("list", "set", "inet", "edgewarden", "h0v4"))
    listed = world.nft("list", "set", "inet", "edgewarden", "h0v4")
    assert listed.count("expires") == 16


def test_addresses_that_end_in_the_kernel_first_keep_no_new_one_out(world: NetWorld) -> None:
    enforced(world, BY_NAME)
    link = world.connect("gate-names.sock")
    link.send(encode(answer(world, 0, *(f"10.0.0.{n}" for n in range(1, 17)))))
    listing = ("list", "set", "inet", "edgewarden", "h0v4")
    wait_until(lambda: "10.0.0.16 " in world.nft(*listing))
    # One that gate still knows, and others that the kernel has not yet collected.
    world.nft("delete element inet edgewarden h0v4 { 10.0.0.1 }")
    for n in range(4):
        world.nft(f"add element inet edgewarden h0v4 {{ 10.9.9.{n} timeout 300s }}")
    link.send(encode(answer(world, 0, "10.1.0.1", "10.1.0.2")))
    wait_until(lambda: "10.1.0.2 " in world.nft(*listing))
    assert "10.1.0.1 " in world.nft(*listing)


# --- gate's own bounds ---------------------------------------------------------------------------


@pytest.mark.needs("root", "nft", "net-namespaces", "strace")
def test_gate_opens_nothing_for_the_network_once_it_runs(world: NetWorld) -> None:
    """Marks on the root filesystem would make such an open wait for gate itself."""
    unit = f"/ewtest{os.getpid()}.slice/app.service"
    world.write(
        ONE_PEER + ONE_PEER.replace(f"uid = {UID}", f'unit = "{unit}"').replace("plant", "u")
    )
    world.start_gate()
    assert world.network_stats().why_not == ""  # the library is loaded by now
    trace = world.state / "trace"
    with subprocess.Popen(
        ["strace", "-f", "-e", "trace=open,openat,openat2,execve,execveat", "-o", str(trace), "-p",
         str(world.gate_pid)], stderr=subprocess.PIPE, text=True,
    ) as tracer:  # fmt: skip
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        assert world.mode("enforce").ok
        world.write(many_peers(50, 4), Network(limits="on", enrolled=(PEER,)))
        assert world.reload().ok
        assert world.connect_says("tcp", PEER, DENIED) != ""
        assert world.mode("observe").ok
        tracer.terminate()
        tracer.wait(60)
    opened = [line for line in trace.read_text().splitlines() if "(" in line]
    # The doors open below descriptors of /proc, /sys and the policy's folder; libraries by path.
    by_path = [line for line in opened if re.search(r'\("/|AT_FDCWD|execve', line)]
    assert not by_path, "\n".join(by_path)
    assert any("network.table" in line for line in opened), "the trace saw something"


def test_without_libnftables_gate_says_so_and_pretends_nothing(
    world: NetWorld, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.py"
    mask.write_text(
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
        "import glob\n"
        "for path in glob.glob('/usr/lib/*/libnftables.so.1*'):\n"
        "    if not os.path.islink(path):\n"
        "        assert libc.mount(b'/dev/null', path.encode(), None, 0x1000, None) == 0\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    world.write(ONE_PEER)
    world.start_gate(masked=str(mask))
    stats = world.network_stats()
    assert "libnftables" in stats.why_not
    refused = world.mode("enforce")
    assert (refused.ok, refused.name) == (False, "not_possible")
    assert not world.network_stats().armed


def test_put_back_removes_what_a_killed_gate_left(world: NetWorld) -> None:
    enforced(world)
    world.kill_gate()
    code = "from edgewarden.network.restore import remove_table; import sys; " \
        "sys.exit(remove_table(sys.argv[1]) != \"\")"  # fmt: skip
    command = world.inside(world.gateway, sys.executable, "-c", code, str(world.state))
    subprocess.run(command, check=True, env={"PYTHONPATH": str(AGENT)})
    assert "edgewarden" not in world.nft("list", "tables")
