"""The policy one-shot: settings, policy and baseline in, ``exec.table``, ``peripherals.table``,
``network.table`` and ``gate.conf`` out, gate told to reload.

Runs as root without network (edgewarden-policy.service), under the supervisor, and as `edgewarden
policy compile`; `policy learn` and dpkg's hook make the baseline first (daemon/baseline.py).

Rules in order:

1. Settings, policy and baseline are read and checked whole; one fault in any and nothing is
   written: gate keeps its last good table.
2. No policy file at all is an empty policy, and only where no table exists yet: a fresh install
   must be able to learn. A policy that vanished later is a fault, never an empty allowlist.
3. Rules that speak of paths, packages, classes or parents need a baseline. Without one they would
   select nothing, and enforcing that would lock everybody out: a fault.
4. The critical set (judge/critical.py) stands before every rule; without a baseline its files are
   looked at here.
5. The generation rises when what the table says has changed, and stays when it has not. It is kept
   beside the table too, and gate keeps what it used (wire/used.py): a table that was lost, or an
   older one that was put back, does not begin again below that, which gate would refuse
   (lockout/forward.py), but becomes the next one. Not so where a person accepts an older one.
6. A gate that runs is told to reload, and whether the rules are those of the last table: only
   then does what observe has seen go on counting while packages change (lockout/coverage.py).
   Which rules a table has is remembered after it is in place, so a power cut vouches for none. A
   gate that does not run reads the files at its start.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewarden.baseline.hashing import Content, Stamp
from edgewarden.baseline.images import images, running
from edgewarden.baseline.learn import BASELINE_NAME, Machine, kept, kept_stamps, some
from edgewarden.daemon.clock import wall_ns
from edgewarden.daemon.managed import Places, subordinates
from edgewarden.errors import OperatorFault, PeerUnavailable, WireRefusal
from edgewarden.exec.digest import PACK_KEY
from edgewarden.exec.marks import WATCHABLE
from edgewarden.exec.policy_files import (
    POLICY_DIRECTORY,
    TABLE_NAME,
    write_generation,
    write_policy,
    write_whole,
)
from edgewarden.judge import peripherals_table
from edgewarden.judge.critical import Critical, critical_set, names, with_critical
from edgewarden.judge.exec_table import MAX_TABLE_BYTES, Table, compile_table, with_generation
from edgewarden.judge.programs import Selected, select
from edgewarden.kernel.mounts import AT_FDCWD, Mounts, known_status
from edgewarden.peers.table import next_table
from edgewarden.peers.users import Users
from edgewarden.plain import dataclass
from edgewarden.probe.control import ask_gate
from edgewarden.probe.disk import Disk
from edgewarden.probe.units import UnitFiles
from edgewarden.settings.files import read_policy, read_settings
from edgewarden.settings.policy import Policy
from edgewarden.settings.policy_programs import Program
from edgewarden.settings.schema import Settings
from edgewarden.settings.schema_exec import Exec
from edgewarden.wire.baseline import Baseline
from edgewarden.wire.gate_files import StopConfig, compile_gate_config
from edgewarden.wire.images import IMAGES_NAME, compile_images
from edgewarden.wire.local import Answer, Request
from edgewarden.wire.network_table import MAX_TABLE_BYTES as MAX_NETWORK_BYTES
from edgewarden.wire.used import MAX_USED_BYTES, USED_NAME, load_used

NETWORK_TABLE = "network.table"

GENERATION_NAME = "exec.generation"
MAX_GENERATION_BYTES = 21
COMPILED_NAME = "baseline.compiled"
MAX_COMPILED_BYTES = 128
"""The digest of the baseline that the table in place was compiled from, and how many rules."""
RULES_NAME = "exec.rules"
"""The digest of the rules that the table in place was compiled from."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the one-shot did.

    Attributes:
        rules: of the policy.
        contents: that the table knows.
        generation: of the table.
        changed: it says something else than the last one.
        reloaded: a running gate took it.
        notes: what is odd, in words.
    """

    rules: int
    contents: int
    generation: int
    changed: bool
    reloaded: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """A policy on this machine, before anything is written.

    Attributes:
        selected: what each rule comes to.
        critical: what no rule can take away.
    """

    selected: Selected
    critical: Critical

    def table(self, generation: int) -> bytes:
        """The bytes of the table; raises OperatorFault for what gate would refuse."""
        rules, contents = with_critical(self.selected, self.critical)
        paths = self.critical.paths
        return compile_table(rules, contents, critical=paths, generation=generation)

    def notes(self) -> tuple[str, ...]:
        """What is odd, in words."""
        return tuple(f"{note.rule}: {note.text}" for note in self.selected.notes)


def build(policy: Policy, baseline: Baseline | None, link_user: str) -> Built:
    """Resolve a policy on this machine.

    Raises:
        OperatorFault: EW-POL-004, a rule needs a baseline and there is none.
    """
    if baseline is None:
        needy = [rule.name for rule in policy.program if _needs_baseline(rule)]
        if needy:
            raise OperatorFault(
                f"no baseline, and rule {needy[0]} needs one",
                code="EW-POL-004",
                next_step="run `edgewarden policy learn`",
            )
        baseline = Baseline((), {})
    interpreter = os.path.realpath(sys.executable)
    known = baseline if baseline.entries else some(Machine(), names(interpreter))
    critical = critical_set(known, interpreter, link_uid=_uid(link_user))
    return Built(select(policy.program, baseline, user_number), critical)


def compile_policy(
    settings_path: str,
    baseline: Baseline | None = None,
    *,
    older: bool = False,
    stamps: Mapping[Stamp, Content] | None = None,
) -> Compiled:
    """Compile what gate reads.

    Args:
        baseline: as it is kept; read where it is not given.
        older: gate is told to take a table of a lower generation too.
        stamps: what the last survey read, as it is kept.

    Raises:
        SettingsFaults: settings or policy, every fault at once.
        OperatorFault: a value gate would refuse, no baseline, or gate refused to reload.
        HardwareFault: the disk refuses; the last table is still in place.
    """
    settings = read_settings(settings_path, Disk())
    folder = Path(settings.paths.state, POLICY_DIRECTORY)
    last = last_table(folder)
    source = _digest_of_file(folder / BASELINE_NAME)
    if last is None and not Path(settings.exec.policy).exists():
        policy = Policy()
    else:
        policy = read_policy(settings.exec.policy, Disk())
    baseline = baseline or kept(str(folder))
    built = build(policy, baseline, settings.exec.link_user)
    used = {} if older else _used(folder)
    peripherals = _peripherals(policy, folder, used.get("peripherals", 0))
    units = Places(UnitFiles())
    network = _network(policy, settings, folder, units, used.get("network", 0))
    old = 0 if last is None else Table.load(last).generation
    table = built.table(old)
    changed = last is None or table != last
    highest = max(_generation(folder), used.get("exec", 0))
    behind = not older and old < highest
    generation = max(old, highest) + 1 if changed or behind else old
    table = with_generation(table, generation)
    rules = _digest_of(policy.program)
    same_rules = rules == _rules(folder)
    write_generation(settings.paths.state, GENERATION_NAME, generation)
    write_policy(settings.paths.state, table, gate_config(settings))
    write_whole(str(folder), IMAGES_NAME, _images(built, baseline, folder, stamps))
    write_whole(str(folder), RULES_NAME, rules)  # after its table: see the module
    if peripherals is not None:
        write_whole(str(folder), peripherals_table.TABLE_NAME, peripherals)
    if network is not None:
        write_whole(str(folder), NETWORK_TABLE, network)
    done = Compiled(
        len(policy.program),
        Table.load(table).count,
        generation,
        changed,
        _reload(settings.paths.run, older=older, same_rules=same_rules),
        (*built.notes(), *units.notes()),
    )
    write_whole(str(folder), COMPILED_NAME, f"{source} {done.rules}\n".encode())
    return done


def compiled_from(folder: Path) -> Compiled | None:
    """The table in place, if it was compiled from the baseline in place; None where that is not
    known, as after a power cut between the two."""
    words = (_bytes_of(folder / COMPILED_NAME, MAX_COMPILED_BYTES) or b"").decode().split()
    data = last_table(folder)
    if data is None or len(words) != 2 or words[0] != _digest_of_file(folder / BASELINE_NAME):
        return None
    table = Table.load(data)
    return Compiled(int(words[1]), table.count, table.generation, changed=False, reloaded=False)


def _images(
    built: Built,
    baseline: Baseline | None,
    folder: Path,
    stamps: Mapping[Stamp, Content] | None,
) -> bytes:
    """What gate must know of images that it has not seen start."""
    wanted = {digest for spec in built.selected.specs for digest in spec.rule.parents}
    known = kept_stamps(str(folder)) if stamps is None else stamps
    paths, near, now_ns = Machine().paths(), _near_devices(), wall_ns()

    def is_near(link: str) -> bool:
        status = known_status(AT_FDCWD, link.encode())
        return status is not None and status.st_dev in near

    found = dict(running(known, is_near, now_ns=now_ns))
    found.update(images(paths, baseline or Baseline((), {}), known, wanted, now_ns=now_ns))
    return compile_images(
        {
            PACK_KEY(s.device, s.inode, s.ctime_ns, s.mtime_ns, s.size_bytes): digest
            for s, digest in found.items()
        }
    )


def _near_devices() -> set[int]:
    """st_dev of this host's local filesystems: of another one a user may be the server."""
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = Mounts(proc_fd).devices()
    finally:
        os.close(proc_fd)
    return {device for device, kind in found.items() if kind in WATCHABLE}


def _peripherals(policy: Policy, folder: Path, used: int) -> bytes | None:
    """The table of [[device]] and [[port]]; None where there never was a rule."""
    last = _bytes_of(folder / peripherals_table.TABLE_NAME, peripherals_table.MAX_TABLE_BYTES)
    devices = [rule.compiled() for rule in policy.device]
    ports = [rule.compiled() for rule in policy.port]
    return peripherals_table.renewed(devices, ports, last, used=used)


def _network(
    policy: Policy, settings: Settings, folder: Path, units: Places, used: int
) -> bytes | None:
    """The table of [[egress]], [[ingress]] and [network]; None where there never was a rule."""
    last = _bytes_of(folder / NETWORK_TABLE, MAX_NETWORK_BYTES)
    users = Users(user_number, subordinates(Path("/etc/subuid")), settings.exec.link_user)
    return next_table(
        policy, settings.network, last=last, users=users, place=units.place, used=used
    )


def _used(folder: Path) -> dict[str, int]:
    """The highest generation of each area's table that gate has used."""
    return load_used(_bytes_of(folder / USED_NAME, MAX_USED_BYTES))


def _bytes_of(path: Path, most: int) -> bytes | None:
    """A file's bytes, one more than ``most`` at the most; None when there is none."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        return None


def gate_config(settings: Settings) -> bytes:
    """The bytes of gate.conf."""
    return compile_gate_config(
        settings.exec.filesystems,
        settings.exec.mode,
        link_uid=_uid(settings.exec.link_user),
        stop=_stop(settings.exec),
        kill_after_start=settings.exec.kill_after_start,
        observe_h=settings.exec.observe_h,
        strict=settings.exec.strict,
        data=settings.exec.data,
    )


def last_table(folder: Path) -> bytes | None:
    """The table in place; None when there is none or it is damaged (it is replaced then)."""
    try:
        with (folder / TABLE_NAME).open("rb") as file:
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


def _needs_baseline(rule: Program) -> bool:
    return bool(rule.path or rule.package or rule.class_ or rule.parent)


def _generation(folder: Path) -> int:
    """The highest generation that was written here; 0 when nobody remembers."""
    number = (_bytes_of(folder / GENERATION_NAME, MAX_GENERATION_BYTES) or b"").strip()
    return int(number) if number.isdigit() else 0


def _digest_of_file(path: Path) -> str:
    """SHA-256 in hex, "" of a file that is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _digest_of(rules: Sequence[Program]) -> bytes:
    return hashlib.sha256("\n".join(map(repr, rules)).encode()).hexdigest().encode() + b"\n"


def _rules(folder: Path) -> bytes | None:
    """The digest of the rules in the table in place; None when nobody remembers."""
    return _bytes_of(folder / RULES_NAME, 2 * hashlib.sha256().digest_size + 1)


def user_number(name: str) -> int | None:
    """A user's number on this machine."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _uid(user: str) -> int:
    """link's user; where it does not exist link runs as we do (daemon/supervise.py)."""
    found = user_number(user) if os.geteuid() == 0 else None
    return os.geteuid() if found is None else found


def _reload(run_dir: str, *, older: bool, same_rules: bool) -> bool:
    verb = "reload_older" if older else "reload_contents" if same_rules else "reload"
    try:
        answer = ask_gate(run_dir, Request(verb, "learn"))
    except PeerUnavailable:
        return False
    if isinstance(answer, Answer) and not answer.ok:
        raise OperatorFault(
            f"gate did not take the new policy: {answer.name}: {answer.text}",
            code="EW-EXEC-023",
            next_step="gate goes on with the last one; see `journalctl -u edgewarden-gate`",
        )
    return True
