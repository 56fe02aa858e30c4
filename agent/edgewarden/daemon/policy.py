"""The policy one-shot: settings and allowlist in, ``exec.table`` and ``gate.conf`` out, gate told
to reload.

Runs as root without network (edgewarden-policy.service), under the supervisor, and as `edgewarden
policy compile`.

Rules in order:

1. Settings and policy are read and checked whole; one fault in either and nothing is written: gate
   keeps its last good table.
2. No policy file at all is an empty policy, and only where no table exists yet: a fresh install
   must be able to learn. A policy that vanished later is a fault, never an empty allowlist.
3. The generation rises when the rules changed, and stays when they did not.
4. A gate that runs is told to reload; one that does not run reads the files at its start.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from edgewarden.errors import OperatorFault, PeerUnavailable, WireRefusal
from edgewarden.exec.policy_files import POLICY_DIRECTORY, TABLE_NAME, write_policy
from edgewarden.judge.exec_table import MAX_TABLE_BYTES, Table, compile_list
from edgewarden.probe.control import ask_gate
from edgewarden.probe.disk import Disk
from edgewarden.settings.files import read_policy, read_settings
from edgewarden.settings.policy import Policy
from edgewarden.settings.policy_programs import Program
from edgewarden.settings.schema_exec import Exec
from edgewarden.wire.gate_files import StopConfig, compile_gate_config
from edgewarden.wire.local import Answer, Request


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the one-shot did.

    Attributes:
        rules: entries of the table.
        generation: of the table.
        changed: its rules differ from the last one's.
        reloaded: a running gate took it.
    """

    rules: int
    generation: int
    changed: bool
    reloaded: bool


def compile_policy(settings_path: str) -> Compiled:
    """Compile what gate reads.

    Raises:
        SettingsFaults: settings or policy, every fault at once.
        OperatorFault: a value gate would refuse, or gate refused to reload.
        HardwareFault: the disk refuses; the last table is still in place.
    """
    settings = read_settings(settings_path, Disk())
    folder = Path(settings.paths.state, POLICY_DIRECTORY)
    last = _last_table(folder / TABLE_NAME)
    if last is None and not Path(settings.exec.policy).exists():
        rules: list[tuple[str, bytes]] = []
    else:
        policy = read_policy(settings.exec.policy, Disk())
        rules = _contents(policy)
    old = 0 if last is None else Table.load(last).generation
    changed = last is None or compile_list(rules, generation=old) != last
    generation = old + 1 if changed else old
    table = compile_list(rules, generation=generation)
    config = compile_gate_config(
        settings.exec.filesystems,
        settings.exec.mode,
        link_uid=_uid(settings.exec.link_user),
        stop=_stop(settings.exec),
        kill_after_start=settings.exec.kill_after_start,
    )
    write_policy(settings.paths.state, table, config)
    return Compiled(len(rules), generation, changed, _reload(settings.paths.run))


def _contents(policy: Policy) -> list[tuple[str, bytes]]:
    """The rules that name a content alone, first match winning."""
    decided: dict[bytes, Program] = {}
    for rule in policy.program:
        if rule.path or rule.package or rule.class_ or rule.about_subject:
            raise OperatorFault(
                f"rule {rule.name}: only sha256 is compiled so far",
                code="EW-EXEC-012",
                next_step="correct the policy file and compile it again",
            )
        for digest in rule.sha256:
            decided.setdefault(bytes.fromhex(digest), rule)
    return [(r.name, digest) for digest, r in decided.items() if r.action == "allow"]


def _last_table(path: Path) -> bytes | None:
    """The table in place; None when there is none or it is damaged (it is replaced then)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        Table.load(data)
    except (FileNotFoundError, WireRefusal):
        return None
    return data


def _stop(section: Exec) -> StopConfig | None:
    """Whose programs are stopped at tier T2.

    Raises:
        OperatorFault: a user who may start programs does not exist; left out, all of his would be
            killed.
    """
    if not section.bpf:
        return None
    try:
        users = tuple(pwd.getpwnam(user).pw_uid for user in section.bpf_users)
    except KeyError as fault:
        raise OperatorFault(
            f"[exec] bpf_users: no user {fault}",
            code="EW-EXEC-011",
            next_step="correct [exec] bpf_users in the settings",
        ) from None
    return StopConfig(section.bpf_cgroup, users)


def _uid(user: str) -> int:
    """link's user; where it does not exist link runs as we do (daemon/supervise.py)."""
    try:
        return pwd.getpwnam(user).pw_uid if os.geteuid() == 0 else os.geteuid()
    except KeyError:
        return os.geteuid()


def _reload(run_dir: str) -> bool:
    try:
        answer = ask_gate(run_dir, Request("reload", "learn"))
    except PeerUnavailable:
        return False
    if isinstance(answer, Answer) and not answer.ok:
        raise OperatorFault(
            f"gate did not take the new policy: {answer.name}: {answer.text}",
            code="EW-EXEC-023",
            next_step="gate goes on with the last one; see `journalctl -u edgewarden-gate`",
        )
    return True
