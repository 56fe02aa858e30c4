"""The policy as nftables text: who is managed, what comes first, what a mode adds. Pure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault
from edgewarden.network.tools import EVERY_KIND
from edgewarden.peers.limits import ICMPV6_NEEDED
from edgewarden.peers.modes import REMOVE, login_port, transaction
from edgewarden.peers.numbers import merged, segments
from edgewarden.peers.places import control_group, unit_path
from edgewarden.peers.rules import MAX_LINES, compile_network
from edgewarden.peers.table import next_table
from edgewarden.peers.users import Users
from edgewarden.settings.peers import NEVER_MANAGED_USERS
from edgewarden.settings.policy import Policy, load_policy
from edgewarden.settings.schema import Network
from edgewarden.settings.source import SourceFile
from edgewarden.wire.network_table import Counter, NetworkTable, Unit

USERS = Users({"plant": 500, "toor": 0, "systemd-resolve": 991, "edgewarden": 992}.get)


def policy(text: str) -> Policy:
    return load_policy(SourceFile("p", text))


def table(text: str, **network: object) -> NetworkTable:
    made = Network(**network)  # type: ignore[arg-type]  # names of its fields
    return compile_network(policy(text), made, users=USERS, generation=1)


def rule(name: str, *lines: str, section: str = "egress") -> str:
    return "\n".join([f"[[{section}]]", f'name = "{name}"', *lines, ""])


def chain(body: str, name: str) -> list[str]:
    found = re.search(rf"^chain {name} \{{\n(.*?)^\}}", body, re.S | re.M)
    assert found is not None, f"no chain {name} in {body}"
    return found[1].splitlines()


def test_nothing_said_is_no_table() -> None:
    assert table("").body == ""
    assert transaction(table(""), "enforce", trial_s=0, units=[], answers={}) == REMOVE


def test_a_user_is_managed_and_ends_in_a_refusal() -> None:
    made = table(rule("a", "uid = 1000", 'address = "10.0.0.1"'))
    assert chain(made.body, "out")[-1] == "meta skuid 1000 goto s0"
    assert chain(made.body, "s0") == ["ip daddr 10.0.0.1 accept", "goto c0"]
    assert made.counters == (Counter("c0", "egress", "unlisted:uid-1000"),)
    assert chain(made.body, "c0")[-1] == "goto refuse"


def test_a_unit_is_a_control_group_and_the_closest_comes_first() -> None:
    made = table(rule("a", 'unit = "/a.slice/b.slice/c.service"', 'address = "10.0.0.1"'),
                 managed_units=("d.service",))  # fmt: skip
    assert made.units == (
        Unit(2, "s0", "system.slice/d.service"),
        Unit(3, "s1", "a.slice/b.slice/c.service"),
    )
    assert [line for line in chain(made.body, "out") if "socket" in line] == [
        "socket cgroupv2 level 3 vmap @units3",
        "socket cgroupv2 level 2 vmap @units2",
    ]
    assert chain(made.body, "s0") == ["goto c0"], "managed, and no rule speaks of it"


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("cron.service", "system.slice/cron.service"),
        ("opc@line1.service", "system.slice/system-opc.slice/opc@line1.service"),
        ("plant.slice", "plant.slice"),
        ("plant-line1.slice", "plant.slice/plant-line1.slice"),
        ("/x.slice/y.service", "x.slice/y.service"),
        # review B, H2: a dash in a template's name is escaped
        (
            "openvpn-client@a.service",
            r"system.slice/system-openvpn\x2dclient.slice/openvpn-client@a.service",
        ),
        (r"a\x2db@i-j.service", r"system.slice/system-a\x5cx2db.slice/a\x2db@i-j.service"),
        # names that the kernel could take for a file of the group's
        ("memory.service", "system.slice/_memory.service"),
        ("_odd.service", "system.slice/__odd.service"),
        ("cgroup.slice", "_cgroup.slice"),
    ],
)
def test_where_systemd_puts_a_unit(unit: str, path: str) -> None:
    assert unit_path(unit) == path


def test_a_slice_of_its_own() -> None:
    assert control_group("a.service", "plant-line1.slice") == (
        "plant.slice/plant-line1.slice/a.service"
    )
    assert control_group("a@b.service", "plant.slice") == "plant.slice/a@b.service"
    assert control_group("a.service", "-.slice") == "a.service"


def test_the_order_of_the_file_is_kept_around_a_deny() -> None:
    made = table(
        rule("first", "uid = 7", 'address = "10.0.0.1"', 'protocol = "tcp"', "port = 1")
        + rule("no", 'action = "deny"', "uid = 7", 'address = "10.0.0.0/24"')
        + rule("after", "uid = 7", 'address = "10.0.0.2"', 'protocol = "tcp"', "port = 2")
        + rule("also", "uid = 7", 'address = "10.0.0.3"', 'protocol = "udp"', "port = 3")
    )
    assert chain(made.body, "s0") == [
        "ip daddr . meta l4proto . th dport @e0 accept",
        "ip daddr 10.0.0.0/24 goto c0",
        "ip daddr . meta l4proto . th dport @e1 accept",
        "goto c1",
    ]
    assert "elements = { 10.0.0.2 . 6 . 2, 10.0.0.3 . 17 . 3 }" in made.body
    assert made.counters[0] == Counter("c0", "egress", "no")


def test_a_rule_without_a_subject_concerns_everybody_who_is_managed() -> None:
    made = table(
        rule("dns", 'address = "10.0.0.53"', 'protocol = "udp"', "port = 53")
        + rule("a", "uid = 7", 'address = "10.0.0.0/8"')
        + rule("b", 'unit = "x.service"', "uid = 8", 'address = "10.1.0.0/16"')
    )
    everybody = "ip daddr . meta l4proto . th dport @e0 accept"
    assert chain(made.body, "s0") == [
        "meta skuid 7 ip daddr 10.0.0.0/8 accept",
        "meta skuid 8 ip daddr 10.1.0.0/16 accept",
        everybody,
        "goto c0",
    ]
    assert chain(made.body, "s1") == ["ip daddr 10.0.0.0/8 accept", everybody, "goto c1"]
    assert "skuid 8 goto" not in made.body, "that user is managed only inside the unit"


def test_overlapping_ranges_of_users_are_each_judged_by_all_their_rules() -> None:
    made = table(
        rule("a", 'uid = "10-20"', 'address = "10.0.0.0/8"')
        + rule("b", 'uid = ["15", "plant"]', 'address = "11.0.0.0/8"')
    )
    goto = [line for line in chain(made.body, "out") if "skuid" in line]
    assert goto == [
        "meta skuid 10-14 goto s0",
        "meta skuid 15 goto s1",
        "meta skuid 16-20 goto s2",
        "meta skuid 500 goto s3",
    ]
    assert chain(made.body, "s1")[:2] == [
        "ip daddr 10.0.0.0/8 accept",
        "ip daddr 11.0.0.0/8 accept",
    ]
    assert chain(made.body, "s3")[:1] == ["ip daddr 11.0.0.0/8 accept"]


def test_root_is_refused_under_any_name() -> None:
    text = rule("a", 'uid = "toor"', 'address = "10.0.0.1"')
    with pytest.raises(OperatorFault, match="root"):
        table(text)


@pytest.mark.parametrize("uids", ['"900-1000"', '["plant", "991"]', '"992"', '"edgewarden"'])
def test_a_range_never_covers_whom_the_uplink_needs(uids: str) -> None:
    """Review B, H3: a range could cover link or the resolver."""
    with pytest.raises(OperatorFault, match=r"rule a: uid .* covers .*(991|992)"):
        table(rule("a", f"uid = {uids}", 'address = "10.0.0.1"'))


@pytest.mark.parametrize("name", [*NEVER_MANAGED_USERS, "link-is-called-so"])
def test_each_of_them_is_spared_and_link_by_the_name_it_has(name: str) -> None:
    users = Users({name: 1234}.get, link_user="link-is-called-so")
    with pytest.raises(OperatorFault, match=name):
        users.spans("a", ("1000-2000",))
    assert users.spans("a", ("1000-1233", "1235-2000")) == [(1000, 1233), (1235, 2000)]


def test_a_user_is_managed_with_the_numbers_he_may_take() -> None:
    """Review B, M3: a program in a user namespace of his own went out as somebody else."""
    users = Users({"plant": 500}.get, [(500, 100000, 65536), (501, 200000, 65536), (0, 1, 9)])
    assert users.spans("a", ("plant",)) == [(500, 500), (100000, 165535)]
    assert users.spans("a", ("501-600",)) == [(501, 600), (200000, 265535)]
    made = compile_network(policy(rule("a", 'uid = "plant"', 'address = "10.0.0.1"')), Network(),
                           users=users, generation=1)  # fmt: skip
    goto = [line for line in chain(made.body, "out") if "skuid" in line]
    assert goto == ["meta skuid 500 goto s0", "meta skuid 100000-165535 goto s1"]


def test_names_have_sets_of_their_own_and_are_labelled() -> None:
    made = table(
        rule("cloud", "uid = 7", 'host = ["a.example.org", "b.example.org"]', 'protocol = "tcp"',
             "port = 443")
        + rule("not", 'action = "deny"', "uid = 7", 'host = "b.example.org"')
    )  # fmt: skip
    assert made.hosts == ("a.example.org", "b.example.org")
    assert "ip6 daddr @h1v6 meta l4proto 6 th dport 443 accept" in chain(made.body, "s0")
    assert [c.by_name for c in made.counters if c.label == "not"] == [True]
    assert "set h0v4 { type ipv4_addr; flags timeout; size 32; }" in made.body


def test_a_deny_of_ranges_uses_no_set_of_ranges() -> None:
    """While a table is replaced the kernel finds nothing in one, for a moment."""
    made = table(
        rule("no", 'action = "deny"', "uid = 7", 'address = ["10.0.0.0/8", "11.1.1.1"]',
             'protocol = "tcp"', 'port = ["1-5", "9"]')
    )  # fmt: skip
    assert chain(made.body, "s0")[:-1] == [
        f"ip daddr {peer} meta l4proto 6 th dport {port} goto c0"
        for peer in ("10.0.0.0/8", "11.1.1.1")
        for port in ("1-5", "9")
    ]
    many = ", ".join(f'"10.{i}.0.0/24"' for i in range(MAX_LINES + 1 - 128) for _ in "x")
    wide = ", ".join(f'"{i * 10}-{i * 10 + 5}"' for i in range(1, 4))
    with pytest.raises(OperatorFault, match="networks times"):
        table(rule("no", 'action = "deny"', "uid = 7", f"address = [{many}]", 'protocol = "tcp"',
                   f"port = [{wide}]"))  # fmt: skip


def test_ingress_denies_the_unlisted_only_where_something_is_listed() -> None:
    only_no = table(rule("no", 'action = "deny"', 'address = "10.0.0.0/8"', section="ingress"))
    assert chain(only_no.body, "listed")[-1] == "ip saddr 10.0.0.0/8 goto c0"
    listed = table(rule("ok", 'protocol = "tcp"', "port = 8883", section="ingress"))
    assert chain(listed.body, "listed")[-2:] == ["meta l4proto 6 th dport 8883 accept", "goto c0"]
    assert listed.counters == (Counter("c0", "ingress", "unlisted"),)


@pytest.mark.parametrize("where", ["input", "in"])
def test_ssh_and_what_stands_are_let_in_before_anything_is_asked(where: str) -> None:
    made = table(rule("ok", 'protocol = "tcp"', "port = 8883", section="ingress"), limits="on",
                 ssh_port=2222)  # fmt: skip
    lines = chain(made.body, where)
    assert "ct state established,related accept" in lines
    assert lines.index("tcp dport @ssh accept") < lines.index("goto listed")
    assert "set ssh { type inet_service; elements = { 2222 }; }" in made.body
    assert login_port(made) == 2222
    text = transaction(made, "enforce", trial_s=0, units=[], answers={}, logins=[22, 22022])
    assert text.splitlines()[-2:] == [
        "add element inet edgewarden ssh { 22 }",
        "add element inet edgewarden ssh { 22022 }",
    ]


def test_where_nothing_from_outside_is_refused_no_port_is_named() -> None:
    made = table(rule("a", "uid = 7", 'address = "10.0.0.1"'))
    assert login_port(made) == 0
    assert "ssh" not in transaction(made, "enforce", trial_s=0, units=[], answers={}, logins=[2222])


def test_every_kind_of_statement_is_tried_before_execs_wait() -> None:
    """The first use of a kind has the kernel start modprobe, whose exec would wait for gate."""
    many = table(
        rule("a", 'unit = "x.service"', 'host = "a.example.org"', 'protocol = ["tcp", "udp"]',
             'port = ["1-5", "9"]')
        + rule("b", 'uid = "7-8"', 'address = ["10.0.0.1", "fd00::1"]', 'protocol = "tcp"',
               "port = 1")
        + rule("c", 'action = "deny"', "uid = 9", 'address = ["10.0.0.0/8", "fd00::/8"]',
               'protocol = "icmp"')
        + rule("d", 'address = "10.0.0.0/8"', section="ingress"),
        limits="on", enrolled=("10.0.0.0/8", "fd00::/64"),
    )  # fmt: skip
    text = transaction(many, "enforce", trial_s=9, units=[], answers={})
    named = {"edgewarden", *re.findall(r"(?:chain|set|map|counter|goto|jump|@)\s*(\w+)", text)}
    kinds = {word for word in re.findall(r"[a-z_0-9]+", text) if not word.isdigit()} - named
    tried = set(re.findall(r"[a-z_0-9]+", EVERY_KIND))
    assert {k for k in kinds - tried if not re.fullmatch(r"[0-9a-f]+s?|c\d+", k)} == set()


def test_limits_leave_enrolled_devices_alone_first() -> None:
    made = table("", limits="on", enrolled=("10.0.0.0/8", "fd00::/64"))
    lines = chain(made.body, "limits")
    assert lines[:2] == ["ip saddr @known4 return", "ip6 saddr @known6 return"]
    needed = (f"{ICMPV6_NEEDED} return", "ip6 saddr fe80::/10 udp dport 546 return")
    assert max(map(lines.index, needed)) < lines.index("ip saddr @held4 goto c0")
    slots = chain(made.body, "slots")
    assert slots.index("ip saddr @known4 return") < slots.index("update @slots { ct id } return")
    assert {c.label for c in made.counters} == {
        "hold", "syn_per_source", "connections_per_source", "udp_per_source", "udp_unknown",
        "unknown_slots",
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["learn", "observe"])
def test_only_enforce_refuses(mode: str) -> None:
    made = table(rule("a", "uid = 7", 'address = "10.0.0.1"'), limits="on")
    let = transaction(made, mode, trial_s=60, units=[], answers={})
    for name in ("refuse", "shut", "over", "full"):
        assert chain(let, name) in (["accept"], ["return"])
    assert "trial" not in let
    assert "reject" not in let
    kept = transaction(made, "enforce", trial_s=0, units=[], answers={})
    assert chain(kept, "refuse")[-1] == "drop"
    assert chain(kept, "shut") == ["drop"]


def test_on_trial_every_refusal_asks_whether_the_trial_still_runs() -> None:
    made = table(rule("a", "uid = 7", 'address = "10.0.0.1"'), limits="on")
    text = transaction(made, "enforce", trial_s=600, units=[], answers={})
    for name in ("refuse", "shut", "over", "full"):
        assert chain(text, name)[0].startswith("meta nfproto != @trial ")
    assert "elements = { 2 timeout 600s, 10 timeout 600s }" in text


def test_a_transaction_names_no_table_but_ours_and_begins_by_deleting_it() -> None:
    made = table(rule("a", 'unit = "x.service"', 'host = "a.example.org"'), limits="on")
    text = transaction(made, "enforce", trial_s=9, units=[(2, "system.slice/x.service", "s0")],
                       answers={0: [(4, "192.0.2.1", 60)]})  # fmt: skip
    assert text.startswith("add table inet edgewarden\ndelete table inet edgewarden\ntable inet ")
    outside = [line for line in text.splitlines() if line.startswith(("add", "delete", "table"))]
    assert all("inet edgewarden" in line for line in outside[:3] + outside[-2:])
    assert outside[-2:] == [
        'add element inet edgewarden units2 { "system.slice/x.service" : goto s0 }',
        "add element inet edgewarden h0v4 { 192.0.2.1 timeout 60s }",
    ]


def test_in_enforce_every_packet_meets_two_hooks() -> None:
    made = table(rule("a", "uid = 7", 'address = "10.0.0.1"'))
    assert "output_again" in transaction(made, "enforce", trial_s=0, units=[], answers={})
    assert "output_again" not in transaction(made, "observe", trial_s=0, units=[], answers={})


def test_the_generation_rises_only_with_a_change() -> None:
    one = policy(rule("a", "uid = 7", 'address = "10.0.0.1"'))
    two = policy(rule("a", "uid = 7", 'address = "10.0.0.2"'))

    def after(p: Policy, last: bytes | None) -> bytes | None:
        return next_table(p, Network(), last=last, users=USERS)

    assert after(Policy(), None) is None
    first = after(one, None)
    assert first is not None
    assert after(one, first) == first
    second = after(two, first)
    assert second is not None
    generations = [NetworkTable.load(data).generation for data in (first, second)]
    assert generations == [1, 2]
    emptied = after(Policy(), second)
    assert emptied is not None
    assert NetworkTable.load(emptied).body == ""
    assert after(one, b"damaged") is not None


SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda t: (t[0], t[0] + t[1]))
)


@given(SPANS)
def test_spans_cover_what_they_covered_and_no_more(spans: list[tuple[int, int]]) -> None:
    wanted = {n for low, high in spans for n in range(low, high + 1)}
    for found in (merged(spans), segments(spans)):
        covered = [n for low, high in found for n in range(low, high + 1)]
        assert sorted(covered) == sorted(wanted)
    for low, high in segments(spans):
        for a, b in spans:
            assert high < a or b < low or (a <= low and high <= b)
