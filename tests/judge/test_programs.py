"""What the rules about programs select on one system, whom they speak of, and which are odd."""

from __future__ import annotations

import hashlib
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault
from edgewarden.judge import programs
from edgewarden.judge.critical import Critical, critical_set, with_critical
from edgewarden.judge.exec_rules import CLASSES
from edgewarden.judge.exec_table import CRITICAL, Table, compile_table
from edgewarden.judge.programs import NO_PARENT, NOBODY, Selected, matcher, select
from edgewarden.settings.policy import load_policy
from edgewarden.settings.policy_programs import Program
from edgewarden.settings.source import SourceFile
from edgewarden.wire.baseline import Baseline, Entry
from tests.fakes.subject import Someone

NOTHING = Critical((), (), ())
USERS = {"root": 0, "pi": 1000, "www-data": 33}


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def file(path: str, kind: str, package: str = "", differs: bool = False, same: str = "") -> Entry:
    return Entry(path, digest(same or path), 1, kind, package, differs)


BASELINE = Baseline(
    (
        file("/usr/bin/bash", "shell", "bash"),
        file("/usr/bin/dash", "shell", "dash"),
        file("/usr/bin/dpkg", "program", "dpkg"),
        file("/usr/bin/env", "program", "coreutils"),
        file("/usr/bin/evil", "program", "coreutils", differs=True),
        file("/usr/bin/ls", "program", "coreutils"),
        file("/usr/bin/python3.11", "interpreter", "python3.11-minimal"),
        file("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "loader", "libc6"),
        file("/usr/lib/x86_64-linux-gnu/libc.so.6", "library", "libc6"),
        file("/usr/local/bin/backup", "script"),
        file("/usr/local/bin/deep/tool", "program"),
        file("/usr/sbin/cron", "program", "cron"),
        file("/usr/sbin/sshd", "program", "openssh-server"),
    ),
    {"/bin": "/usr/bin", "/sbin": "/usr/sbin", "/usr/bin/python3": "/usr/bin/python3.11",
     "/usr/bin/sh": "/usr/bin/dash"},
)  # fmt: skip


def rules(text: str) -> tuple[Program, ...]:
    return load_policy(SourceFile("policy.toml", text)).program


def chosen(conditions: str, baseline: Baseline = BASELINE) -> set[str]:
    """Which files of the baseline one rule selects."""
    found = select(rules(f'[[program]]\nname = "r"\n{conditions}'), baseline, USERS.get)
    return {e.path for e in baseline.entries if e.sha256 in found.rules_of}


def table(text: str, baseline: Baseline = BASELINE) -> Table:
    found = select(rules(text), baseline, USERS.get)
    return Table.load(compile_table(*with_critical(found, NOTHING)))


def decided(one: Table, path: str, subject: Someone | None = None) -> str | None:
    rule = one.decide(digest(path), subject or Someone(0, b"", "/init.scope"))
    return None if rule is None else ("+" if rule.allow else "-") + rule.name


def notes(found: Selected) -> list[tuple[str, str]]:
    return [(note.rule, note.text) for note in found.notes]


# --- contents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ("path = '/usr/bin/ls'", {"/usr/bin/ls"}),
        ("path = '/bin/ls'", {"/usr/bin/ls"}),
        ("path = '/bin/sh'", {"/usr/bin/dash"}),
        ("path = '/usr/bin/python3'", {"/usr/bin/python3.11"}),
        ("path = '/bin/python*'", {"/usr/bin/python3.11"}),
        ("path = '/usr/bin/python?'", {"/usr/bin/python3.11"}),  # the alias is like it
        ("path = '/usr/local/bin/*'", {"/usr/local/bin/backup"}),
        ("path = '/usr/local/**'", {"/usr/local/bin/backup", "/usr/local/bin/deep/tool"}),
        ("path = '/usr/local/**/tool'", {"/usr/local/bin/deep/tool"}),
        ("path = '/**/sshd'", {"/usr/sbin/sshd"}),
        ("path = ['/usr/bin/l?', '/sbin/cron']", {"/usr/bin/ls", "/usr/sbin/cron"}),
        ("package = 'coreutils'", {"/usr/bin/ls", "/usr/bin/env"}),
        ("package = '-'", {"/usr/local/bin/backup", "/usr/local/bin/deep/tool"}),
        ("package = '*'\nclass = 'program'", {
            "/usr/bin/dpkg", "/usr/bin/env", "/usr/bin/ls", "/usr/sbin/cron", "/usr/sbin/sshd",
        }),
        ("class = ['shell', 'loader']", {
            "/usr/bin/bash", "/usr/bin/dash", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        }),
        ("path = '/usr/bin/*'\npackage = ['dash', 'bash']", {"/usr/bin/bash", "/usr/bin/dash"}),
        (f"sha256 = '{digest('/usr/bin/ls').hex()}'", {"/usr/bin/ls"}),
        (f"sha256 = '{digest('/usr/bin/ls').hex()}'\npackage = 'dash'", set()),
        ("path = '/usr/bin/nothing'", set()),
    ],
)  # fmt: skip
def test_a_rule_selects_contents(conditions: str, wanted: set[str]) -> None:
    assert chosen(conditions) == wanted


def test_a9_the_usrmerge_alias_and_the_real_path_are_one_rule() -> None:
    assert chosen("path = '/bin/ls'") == chosen("path = '/usr/bin/ls'") == {"/usr/bin/ls"}
    assert chosen("path = '/bin/ls'\npackage = 'coreutils'") == {"/usr/bin/ls"}


def test_a_changed_file_is_not_its_packages_but_has_its_path() -> None:
    assert "/usr/bin/evil" not in chosen("package = '*'")
    assert "/usr/bin/evil" not in chosen("package = '-'")
    assert chosen("path = '/usr/bin/evil'") == {"/usr/bin/evil"}


def test_a_digest_need_not_be_known() -> None:
    one = table(f"[[program]]\nname = 'x'\nsha256 = '{digest('/new').hex()}'\n")
    assert decided(one, "/new") == "+x"
    assert one.class_of(digest("/new")) == "interpreter", "nobody saw what it is called"


def test_content_that_lies_under_two_paths_counts_for_both() -> None:
    twice = Baseline(
        (file("/opt/a", "program", same="x"), file("/opt/sh", "shell", "dash", same="x")), {}
    )
    one = table("[[program]]\nname = 'p'\npackage = 'dash'\n", twice)
    assert decided(one, "x") == "+p"
    assert one.class_of(digest("x")) == "shell", "the one that is looked at more closely"


# --- subjects ------------------------------------------------------------------------------------

LS = "[[program]]\nname = 'r'\npath = '/bin/ls'\n"


@pytest.mark.parametrize(
    ("condition", "may", "may_not"),
    [
        ("uid = 'pi'", Someone(1000), Someone(1001)),
        ("uid = '1000-1999'", Someone(1999), Someone(2000)),
        ("uid = 0", Someone(0), Someone(1)),
        ("parent = '/sbin/cron'", Someone(image=digest("/usr/sbin/cron")),
         Someone(image=digest("/usr/bin/bash"))),
        ("unit = 'cron.service'", Someone(place="/system.slice/cron.service"),
         Someone(place="/system.slice/ssh.service")),
        ("unit = 'user-*.slice'", Someone(place="/user.slice/user-7.slice/session-1.scope"),
         Someone(place="/system.slice/cron.service")),
    ],
)  # fmt: skip
def test_a9_each_subject_is_proven_by_one_allow_and_one_deny(
    condition: str, may: Someone, may_not: Someone
) -> None:
    one = table(LS + condition)
    assert decided(one, "/usr/bin/ls", may) == "+r"
    assert decided(one, "/usr/bin/ls", may_not) is None
    denies = table(
        LS + condition + "\naction = 'deny'\n[[program]]\nname = 'rest'\npackage = '*'\n"
    )
    assert decided(denies, "/usr/bin/ls", may) == "-r"
    assert decided(denies, "/usr/bin/ls", may_not) == "+rest"


def test_a9_the_owner_package_is_proven_by_one_allow_and_one_deny() -> None:
    one = table("[[program]]\nname = 'r'\npackage = 'coreutils'\n")
    assert decided(one, "/usr/bin/ls") == "+r"
    assert decided(one, "/usr/bin/dash") is None


@pytest.mark.parametrize("condition", ["uid = 'nobody-here'", "parent = '/nowhere'"])
def test_what_nothing_answers_to_never_holds_and_is_noted(condition: str) -> None:
    """Left out, the condition would let everybody through."""
    found = select(rules(LS + condition), BASELINE, USERS.get)
    assert notes(found)[0][0] == "r"
    one = Table.load(compile_table(*with_critical(found, NOTHING)))
    for subject in (Someone(0, digest("/usr/bin/ls"), "/x"), Someone(1000, b"z" * 32, "/x")):
        assert decided(one, "/usr/bin/ls", subject) is None
    rule = found.specs[0].rule
    assert rule.uids in ((), (NOBODY,))
    assert rule.parents in ((), (NO_PARENT,))


def test_more_parents_than_the_table_takes_are_refused_by_the_rules_name() -> None:
    many = tuple(file(f"/opt/p{i:03}", "program") for i in range(256))
    text = "[[program]]\nname = 'wide'\npackage = '*'\nparent = '/opt/*'\n"
    with pytest.raises(OperatorFault, match="rule wide: 256 parents; 255 are the most"):
        select(rules(text), Baseline(many, {}), USERS.get)
    found = select(rules(text), Baseline(many[1:], {}), USERS.get)
    assert len(found.specs[0].rule.parents) == 255


# --- order ---------------------------------------------------------------------------------------


def test_the_first_rule_that_holds_decides() -> None:
    text = """\
[[program]]
name = "no-ls-for-pi"
action = "deny"
path = "/bin/ls"
uid = "pi"
[[program]]
name = "debian"
package = "*"
[[program]]
name = "never"
action = "deny"
path = "/bin/env"
[[program]]
name = "nothing-for-www"
action = "deny"
uid = "www-data"
"""
    one = table(text)
    assert decided(one, "/usr/bin/ls", Someone(1000)) == "-no-ls-for-pi"
    assert decided(one, "/usr/bin/ls", Someone(0)) == "+debian"
    assert decided(one, "/usr/bin/env", Someone(0)) == "+debian"
    assert decided(one, "/unknown", Someone(33)) == "-nothing-for-www"
    assert decided(one, "/unknown", Someone(0)) is None


def test_a_dead_rule_is_told() -> None:
    found = select(
        rules(
            "[[program]]\nname = 'all'\npackage = '*'\n"
            "[[program]]\nname = 'dead'\naction = 'deny'\npath = '/bin/ls'\nuid = 33\n"
            "[[program]]\nname = 'lives'\npath = '/usr/local/bin/*'\n"
        ),
        BASELINE,
        USERS.get,
    )
    assert [effect.dead for effect in found.effects] == [False, True, False]
    assert notes(found) == [
        ("dead", "can never decide: an earlier rule decides in every case of this one")
    ]


def test_an_earlier_rule_with_a_narrower_subject_kills_nothing() -> None:
    found = select(
        rules(
            "[[program]]\nname = 'a'\npackage = '*'\nuid = 0\n"
            "[[program]]\nname = 'b'\npackage = '*'\nuid = [0, 33]\n"
            "[[program]]\nname = 'c'\npackage = '*'\nuid = 33\n"
        ),
        BASELINE,
        USERS.get,
    )
    assert [effect.dead for effect in found.effects] == [False, False, True]


def test_rules_without_effect_are_told() -> None:
    found = select(
        rules(
            "[[program]]\nname = 'useless'\naction = 'deny'\npath = '/usr/local/bin/*'\n"
            "[[program]]\nname = 'absent'\npackage = 'nginx'\n"
            "[[program]]\nname = 'fine'\naction = 'deny'\npath = '/bin/ls'\n"
            "[[program]]\nname = 'rest'\npackage = '*'\n"
        ),
        BASELINE,
        USERS.get,
    )
    assert notes(found) == [
        ("absent", "nothing in the baseline answers to package nginx"),
        ("useless", "changes nothing: no later rule would allow what it denies"),
        ("absent", "selects nothing here"),
    ]
    assert [effect.contents for effect in found.effects] == [1, 0, 1, 11 - 1]


PARTS = st.sampled_from(["a", "b", "*", "**", "?", "ab", "*b"])
NAMES = st.sampled_from(["a", "b", "ab", "bb", "ba"])


@given(st.lists(PARTS, min_size=1, max_size=4), st.lists(NAMES, min_size=1, max_size=5))
def test_a_pattern_is_what_the_documents_say(parts: list[str], names: list[str]) -> None:
    """Against a plain interpreter of the same words, part by part."""

    def like(parts: list[str], names: list[str]) -> bool:
        if not parts:
            return not names
        if parts[0] == "**":
            least = 1 if len(parts) == 1 else 0
            return any(like(parts[1:], names[i:]) for i in range(least, len(names) + 1))
        if not names:
            return False
        form = re.escape(parts[0]).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(form, names[0]) is not None and like(parts[1:], names[1:])

    pattern, path = "".join(f"/{p}" for p in parts), "".join(f"/{n}" for n in names)
    assert matcher(pattern)(path) is like(parts, names)


KEYS = {
    "path": ["/usr/bin/*", "/bin/ls", "/usr/**", "/none"],
    "package": ["coreutils", "*", "-", "dash"],
    "class": ["program", "shell"],
    "uid": ["0", "pi", "30-40"],
    "unit": ["cron.service", "user-*.slice"],
}
CONDITIONS = st.fixed_dictionaries(
    {}, optional={key: st.sampled_from(values) for key, values in KEYS.items()}
)


@given(
    st.lists(st.tuples(st.sampled_from(["allow", "deny"]), CONDITIONS), max_size=5),
    st.sampled_from(BASELINE.entries),
    st.sampled_from([0, 33, 1000]),
    st.sampled_from(["/system.slice/cron.service", "/user.slice/user-7.slice/x.scope"]),
)
def test_the_compiled_table_says_what_the_rules_say(
    written: list[tuple[str, dict[str, str]]], entry: Entry, uid: int, place: str
) -> None:
    """First match wins, read straight off the rules, against the table that gate asks."""
    policy = [
        Program(
            name=f"r{i}",
            action=action,
            **{("class_" if k == "class" else k): (v,) for k, v in conditions.items()},  # type: ignore[arg-type]
        )
        for i, (action, conditions) in enumerate(written)
        if conditions
    ]
    subject = Someone(uid, b"p" * 32, place)
    wanted = None
    for rule in policy:
        one = rules_holds(rule, entry, uid, place)
        if one:
            wanted = ("+" if rule.action == "allow" else "-") + rule.name
            break
    found = select(policy, BASELINE, USERS.get)
    compiled = Table.load(compile_table(*with_critical(found, NOTHING)))
    assert decided(compiled, entry.path, subject) == wanted
    for rule, effect in zip(policy, found.effects, strict=True):
        if effect.dead:
            assert wanted is None or wanted[1:] != rule.name


def rules_holds(rule: Program, entry: Entry, uid: int, place: str) -> bool:
    path = [BASELINE.resolve(p) if "*" not in p else p for p in rule.path]
    if path and not any(matcher(p)(entry.path) for p in path):
        return False
    owner = "" if entry.differs else entry.package or "-"
    if rule.package and not any(
        p == owner or (p == "*" and owner not in "-") for p in rule.package
    ):
        return False
    if rule.class_ and entry.kind not in rule.class_:
        return False
    ranges = {"0": (0, 0), "pi": (1000, 1000), "30-40": (30, 40)}
    if rule.uid and not any(ranges[u][0] <= uid <= ranges[u][1] for u in rule.uid):
        return False
    units = {"cron.service": "/cron.service", "user-*.slice": "/user-7.slice"}
    return not rule.unit or any(units[u] in place for u in rule.unit)


# --- size ----------------------------------------------------------------------------------------


def test_five_thousand_rules_compile_small() -> None:
    """One rule for each program of a large system."""
    entries = tuple(
        Entry(f"/usr/bin/p{i:05}", i.to_bytes(32, "big"), 1, "program", f"pkg{i % 900}")
        for i in range(20_000)
    )
    policy = [
        Program(name=f"rule-{i}", path=(f"/usr/bin/p{i:05}",), uid=("0", "1000-1999"))
        for i in range(4_000)
    ] + [Program(name=f"package-{i}", package=(f"pkg{i % 900}",)) for i in range(1_000)]
    tracemalloc.start()
    found = select(policy, Baseline(entries, {}), USERS.get)
    data = compile_table(*with_critical(found, NOTHING))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    loaded = Table.load(data)
    assert len(loaded.rules) == 5_000
    assert loaded.count == 20_000
    assert len(data) < 1_500_000
    assert peak_bytes < 60_000_000


# --- the critical set ----------------------------------------------------------------------------


def test_the_critical_set_stands_above_a_policy_that_denies_everything() -> None:
    everything = "[[program]]\nname = 'none'\naction = 'deny'\npackage = ['*', '-']\n"
    found = select(rules(everything), BASELINE, USERS.get)
    critical = critical_set(BASELINE, "/usr/bin/python3", link_uid=995)
    one = Table.load(compile_table(*with_critical(found, critical), critical=critical.paths))
    for path in ("/usr/sbin/sshd", "/usr/bin/dpkg", "/usr/lib/x86_64-linux-gnu/libc.so.6"):
        assert one.decide(digest(path), Someone(33)) is CRITICAL
    assert decided(one, "/usr/bin/ls") == "-none"
    assert decided(one, "/usr/sbin/cron") == "-none"
    assert [p.decode() for p in one.critical] == [
        "/usr/bin/bash", "/usr/bin/dash", "/usr/bin/dpkg", "/usr/bin/python3.11",
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "/usr/sbin/sshd",
    ]  # fmt: skip


def test_shells_are_for_people_and_the_interpreter_for_us() -> None:
    critical = critical_set(BASELINE, "/usr/bin/python3", link_uid=995)
    shells, ours = critical.scoped
    assert set(shells.contents) == {digest("/usr/bin/bash"), digest("/usr/bin/dash")}
    assert [shells.rule.matches(Someone(u)) for u in (0, 1000, 33, 65534)] == [
        True,
        True,
        False,
        False,
    ]
    assert digest("/usr/bin/python3.11") in ours.contents
    assert [ours.rule.matches(Someone(u)) for u in (0, 995, 33, 1000)] == [True, True, False, False]


def test_a_changed_critical_file_has_no_content_in_the_set_but_keeps_its_path() -> None:
    changed = Baseline((file("/usr/sbin/sshd", "program", "openssh-server", differs=True),), {})
    critical = critical_set(changed, "/usr/bin/python3", link_uid=995)
    assert critical.everyone == ()
    assert critical.paths == ("/usr/sbin/sshd",)


def test_packaged_libraries_are_everybodys_and_pythons_modules_ours() -> None:
    """Else strict mode takes libpam from login under a policy that denies everything."""
    system = Baseline(
        (
            file("/usr/bin/python3.11", "interpreter", "python3.11-minimal"),
            file("/usr/lib/python3.11/abc.py", "module", "libpython3.11-minimal"),
            file("/usr/lib/python3.11/evil.py", "module"),
            file("/usr/lib/python3.11/pdb.py", "script", "libpython3.11-stdlib"),
            file("/usr/lib/x86_64-linux-gnu/libevil.so", "library"),
            file("/usr/lib/x86_64-linux-gnu/libpam.so.0", "library", "libpam0g"),
            file("/usr/lib/x86_64-linux-gnu/libz.so.1", "library", "zlib1g", differs=True),
        ),
        {},
    )
    critical = critical_set(system, "/usr/bin/python3.11", link_uid=995)
    assert critical.everyone == (digest("/usr/lib/x86_64-linux-gnu/libpam.so.0"),)
    assert set(critical.scoped[1].contents) == {
        digest("/usr/bin/python3.11"), digest("/usr/lib/python3.11/abc.py"),
        digest("/usr/lib/python3.11/pdb.py"),
    }  # fmt: skip
    assert critical.paths == ("/usr/bin/python3.11",), "a table takes 512, and modules are no doors"


def test_every_class_has_its_rank() -> None:
    assert set(programs._RANK) == set(CLASSES)
