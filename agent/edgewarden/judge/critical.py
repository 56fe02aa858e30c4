"""The critical set: what no policy may take away, so that nobody is locked out of a gateway.

What this decides: which programs belong to it, and for whom. What it leaves to others: comparing an
event with it (gate), finding our own interpreter and the files on the disk (the policy one-shot).

Rules in order, for a program at one of the paths below:

1. Content that the baseline has there: init, loader, libc, login, sshd, sudo, apt and dpkg with
   what dpkg calls are allowed to everyone. Shells are allowed to people (root and ordinary users)
   and our own interpreter to root and link's user: a service account gets neither from here.
2. Content that nobody recorded (an upgrade without our hook, a repair by hand): gate allows it and
   raises an alarm. That is what the table's critical paths are for.
3. Libraries as their packages brought them are allowed to everyone: what loads them is judged, and
   strict mode must not take libpam from login. So are Python's own modules to root and link's user,
   without which our command does not start.
4. A file that its package says is another (``differs``) is left to rule 2: it gets no place of its
   own in the set.

    found = critical_set(baseline, "/usr/bin/python3.11", link_uid=995)
    found.everyone; found.scoped[0].rule.name; found.paths
"""

from __future__ import annotations

from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import Content, RuleSpec
from edgewarden.judge.programs import Paths, Selected
from edgewarden.plain import dataclass
from edgewarden.wire.baseline import Baseline, Entry

PEOPLE = ((0, 0), (1000, 59999))
"""root, and what Debian Policy 9.2.2 gives to user accounts."""

UNSEEN = "interpreter"
"""The class of a content that a rule names by its SHA-256 and that the baseline lacks: nobody saw
what it is called, so strict mode looks at what it opens."""
EVERYONE = (
    "/sbin/init",
    "/usr/lib/systemd/systemd*",
    "/lib*/**/ld-linux*.so.*", "/usr/lib/**/ld-linux*.so.*", "/usr/lib/**/ld-*.so",
    "/usr/lib/**/libc.so.6", "/usr/lib/**/libc-*.so",
    "/sbin/agetty", "/sbin/sulogin", "/bin/login", "/bin/su", "/usr/bin/sudo", "/usr/bin/passwd",
    "/usr/sbin/unix_chkpwd", "/sbin/unix_chkpwd",
    "/usr/sbin/sshd", "/usr/lib/openssh/sshd-*", "/usr/lib/openssh/sftp-server",
    "/usr/sbin/dropbear",
    "/bin/systemctl", "/sbin/shutdown", "/sbin/reboot", "/bin/mount", "/bin/umount", "/sbin/fsck*",
    "/sbin/modprobe", "/bin/kmod",
    "/usr/bin/apt", "/usr/bin/apt-get", "/usr/bin/apt-cache", "/usr/bin/apt-config",
    "/usr/lib/apt/**", "/usr/bin/gpgv", "/usr/bin/sqv",
    "/usr/bin/dpkg*", "/usr/bin/update-alternatives", "/usr/lib/dpkg/**",
    # dpkg refuses to work when it does not find these (src/main/help.c, checkpath)
    "/bin/rm", "/bin/tar", "/usr/bin/diff", "/sbin/ldconfig", "/sbin/start-stop-daemon",
    # dpkg-deb unpacks with them
    "/bin/gzip", "/usr/bin/xz", "/usr/bin/zstd",
    "/usr/bin/edgewarden", "/usr/lib/edgewarden/**",
)  # fmt: skip
SHELLS = (
    "/bin/sh",
    "/bin/bash",
    "/bin/dash",
    "/bin/rbash",
    "/bin/zsh*",
    "/bin/ksh*",
    "/usr/bin/fish",
)
MODULES = ("/usr/lib/python3*/**",)
"""The standard library and Debian's packages of modules, ours among them."""

_STARTED = frozenset(("program", "script", "interpreter", "shell", "loader"))


@dataclass(frozen=True, slots=True)
class Scoped:
    """Contents that some are always allowed."""

    rule: Rule
    contents: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Critical:
    """See the module.

    Attributes:
        everyone: contents that nobody is denied.
        scoped: contents that some are not denied, before any rule of the policy.
        paths: resolved; where content the table does not know is allowed with an alarm.
    """

    everyone: tuple[bytes, ...]
    scoped: tuple[Scoped, ...]
    paths: tuple[str, ...]


def critical_set(baseline: Baseline, interpreter: str, *, link_uid: int) -> Critical:
    """The set of one system.

    Args:
        interpreter: the path of the one that runs us, as the system names it.
        link_uid: the user that link runs as.
    """
    index = Paths(baseline)
    everyone = [e for pattern in EVERYONE for e in index.under(pattern)]
    shells = [e for pattern in SHELLS for e in index.under(pattern)]
    ours = index.under(interpreter)
    modules = [e for pattern in MODULES for e in index.under(pattern) if e.package]
    everyone += [e for e in baseline.entries if e.kind == "library" and e.package]
    agent = Rule("critical(agent)", True, _ranges(0, link_uid), (), ())
    people = Rule("critical(shell)", True, PEOPLE, (), ())
    paths = {e.path for e in (*everyone, *shells, *ours) if e.kind in _STARTED}
    return Critical(
        _contents(everyone),
        (Scoped(people, _contents(shells)), Scoped(agent, _contents([*ours, *modules]))),
        tuple(sorted(paths)),
    )


def with_critical(
    found: Selected, critical: Critical
) -> tuple[list[RuleSpec], dict[bytes, Content]]:
    """Rules and contents for the table: those of the set stand before those of the policy."""
    before = len(critical.scoped)
    specs = [RuleSpec(one.rule, any_content=False) for one in critical.scoped] + found.specs
    numbers = {digest: [n + before for n in own] for digest, own in found.rules_of.items()}
    for number, one in enumerate(critical.scoped):
        for digest in one.contents:
            numbers.setdefault(digest, []).insert(0, number)
    flagged = set(critical.everyone)
    contents = {
        digest: Content(
            tuple(sorted(numbers.get(digest, ()))),
            found.kinds.get(digest, UNSEEN),
            digest in flagged,
        )
        for digest in {*numbers, *flagged}
    }
    return specs, contents


def names(interpreter: str) -> tuple[str, ...]:
    """The paths that stand for themselves: what a system without a baseline is asked for."""
    return tuple(p for p in (*EVERYONE, *SHELLS, interpreter) if "*" not in p)


def _ranges(*uids: int) -> tuple[tuple[int, int], ...]:
    return tuple((uid, uid) for uid in sorted(set(uids)))


def _contents(entries: list[Entry]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(e.sha256 for e in entries if not e.differs))
