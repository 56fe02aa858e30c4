"""The settings of exec control; schema.py has the tree they are part of.

Exec().mode == "learn"
"""

from __future__ import annotations

import re

from edgewarden.plain import dataclass
from edgewarden.settings.fields import choice, path, paths, text, texts, whole

_USER_FORM = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Exec:
    """What may be executed, and where."""

    filesystems: tuple[str, ...] = paths(
        most=16,
        help="Mount points whose whole filesystem is watched. Empty: nothing is.",
        example='["/mnt/apps"]',
    )
    mode: str = choice(
        "learn",
        of=("learn", "observe"),
        help="The mode gate starts in before a person has chosen one. Enforcing is never a "
        "setting: a person arms it on the host with `edgewarden policy enforce`.",
    )
    observe_h: int = whole(
        24,
        low=0,
        high=8760,
        help="Hours of observe, besides one whole boot, before `policy enforce` is kept on the "
        "filesystem that holds /. A trial (--confirm) may begin before.",
    )
    strict: bool = choice(
        False,
        of=(False, True),
        help="While enforcing at tier T3, judge what is opened, too: ELF files opened by anybody, "
        "and every file that an interpreter, a shell or the loader opens. docs/policy.md, Strict "
        "mode, says what that means for programs that write files.",
    )
    data: tuple[str, ...] = paths(
        most=16,
        help="Strict mode: below these, interpreters may open what is not listed, unless it looks "
        "like code.",
        example='["/mnt/apps/var"]',
    )
    policy: str = path("/etc/edgewarden/policy.toml", help="The allowlist, as a file.")
    roots: tuple[str, ...] = paths(
        most=16,
        help="Folders with programs that `edgewarden policy learn` takes in beside Debian's own: "
        "/usr, /etc, /opt and /srv.",
        example='["/home/pi/collector"]',
    )
    link_user: str = text(
        "edgewarden",
        form=_USER_FORM,
        rule="a Unix user name",
        help="The user link runs as: gate hands facts to this user and root alone.",
    )
    bpf: bool = choice(
        False,
        of=(False, True),
        help="Where the kernel cannot refuse a program: stop each one at its start by BPF until it "
        "is judged (tier T2). Needs libbpf1 and a kernel with CONFIG_BPF_EVENTS. Who waits for "
        "stopped children sees them stop, so a shell with job control is disturbed.",
    )
    bpf_cgroup: str = path(
        "/system.slice",
        help="Programs are stopped below this cgroup; / for the whole host, sessions included.",
    )
    bpf_users: tuple[str, ...] = texts(
        most=64,
        form=_USER_FORM,
        rule="a Unix user name",
        help="Who may start programs below that cgroup; a program of anybody else is killed in the "
        "kernel. Empty: everybody's are stopped and judged.",
        example='["root", "www-data"]',
    )
    kill_after_start: bool = choice(
        False,
        of=(False, True),
        help="Where nothing can be prevented (tier T0): let a person choose enforce all the same, "
        "and kill what is not allowed after its start. It detects and responds; half of the short "
        "programs end before it does.",
    )
