"""Confinement in place, on trial, for good, and away again byte for byte.

Rules in order:

1. Nothing is overwritten that is not ours: a file of the same name is a refusal, before anything.
2. What will be made is written down first (confine/record.py), with the values before; then it is
   made. Whatever a power cut leaves can be taken away by name.
3. A trial stands in /run and nowhere else, so that a boot ends it, however badly it went; it leaves
   /etc/sysctl.d alone. Its clock runs before its first file is there: whatever cuts the person off
   from here on, the trial ends. ``confirm`` writes the same for good.
4. A step that fails takes everything back.
5. Taking back removes what is ours and unchanged, restores values that are still ours, and names
   what somebody changed meanwhile and was therefore left (``force`` leaves nothing).

What it leaves to others: what should be so (confine/plan.py), restarting services and the clock of
a trial (cli/confine.py), whether the kernel then refuses (probe/confine_verify.py).

    confiner = Confiner(Systemctl(), state_dir, run_dir); confiner.apply(plan)
    confiner.revert() == []
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgewarden.change.records import FOLDER_MODE, failed, fetch, write
from edgewarden.confine.facts import File, Plan, ServicePlan
from edgewarden.confine.plan import (
    DROPIN,
    KEPT_UNITS,
    NOEXEC_UNIT,
    SYSCTL_FILE,
    TRIAL_UNITS,
    files,
    standing,
)
from edgewarden.confine.record import (
    APPLIED_NAME,
    TRIAL_NAME,
    Applied,
    Made,
    Placed,
    Turned,
)
from edgewarden.confine.service import parse_dropin
from edgewarden.errors import EdgewardenError, OperatorFault, WireRefusal
from edgewarden.ports import Ended, Systemd

_DRIFT_STEP = "see who changed it; `edgewarden confine revert --force` takes it away all the same"


class Confiner:
    """See the module. Blocks; root only; one at a time.

    Args:
        state_dir, run_dir: [paths] of the settings.
        root: before every path, state and run too; "/" but for tests.
    """

    def __init__(
        self, systemd: Systemd, state_dir: str, run_dir: str, root: Path = Path("/")
    ) -> None:
        self._systemd = systemd
        self._root = root
        self._kept = self._at(f"{state_dir}/{APPLIED_NAME}")
        self._trial = self._at(f"{run_dir}/{TRIAL_NAME}")

    def applied(self) -> Applied | None:
        """What is in place: the trial's or the kept one's record, None without.

        Raises:
            OperatorFault: EW-EXEC-047 the record is damaged, EW-EXEC-015 it is not root's alone.
        """
        for where in (self._trial, self._kept):
            if where.exists():
                return self._read(where)
        return None

    def _read(self, where: Path) -> Applied:
        try:
            return Applied.load(fetch(where))
        except WireRefusal as damaged:
            raise OperatorFault(
                f"{where}: the record of what was put in place is damaged: {damaged.text}",
                code="EW-EXEC-047",
                next_step="`edgewarden confine revert --force` takes away what bears our names",
            ) from damaged

    def apply(
        self,
        plan: Plan,
        *,
        trial: Callable[[], None] | None = None,
        restarted: bool = False,
        login: tuple[str, ...] = (),
    ) -> Applied:
        """Put a plan in place of the last one, for good or on trial.

        Args:
            plan: what shall be so.
            trial: starts the clock that takes a trial back; called when nothing is refused any
                more and before anything is changed. None: for good.
            restarted, login: for the record.

        Raises:
            OperatorFault: EW-EXEC-041 a foreign file, EW-EXEC-043 a trial is on.
            HardwareFault: EW-EXEC-042, a step failed; everything was taken back.
        """
        keep = trial is None
        old = self.applied()
        if old is not None and (old.trial or not keep):
            raise OperatorFault(
                "a trial is on" if old.trial else "confinement is in place for good already",
                code="EW-EXEC-043",
                next_step="`edgewarden confine confirm` or `edgewarden confine revert` first",
            )
        wanted = files(plan, keep=keep)
        mine = {made.path for made in old.files} if old else set()
        self._refuse_foreign([file for file in wanted if file.path not in mine])
        before = {turned.name: turned.before for turned in old.sysctls} if old else {}
        new = Applied(
            trial=not keep,
            units=plan.managed,
            files=tuple(Made(f.path, "" if f.link else _digest(f.text), f.link) for f in wanted),
            folders=_unique([*(old.folders if old else ()), *self._missing_folders(wanted)]),
            sysctls=tuple(
                Turned(name, before.get(name, self._sysctl(name)), value)
                for name, value in plan.sysctls
            ),
            mounts=tuple(Placed(m.path, m.method, m.unit) for m in plan.mounts),
            restarted=restarted,
            login=login,
        )
        record = self._kept if keep else self._trial
        if trial is not None:
            trial()
        if old is not None:
            self._undo(old, new)
        write(record, _union(old, new).dump())
        try:
            self._make(wanted, new)
        except EdgewardenError:
            self._undo(_union(old, new), None)
            _forget(record)
            raise
        write(record, new.dump())
        return new

    def confirm(self) -> Applied:
        """Make the trial's files stand for good.

        Raises:
            OperatorFault: EW-EXEC-043 no trial is on, EW-EXEC-041 a foreign file or a changed one.
            HardwareFault: EW-EXEC-042.
        """
        trial = self.applied()
        if trial is None or not trial.trial:
            raise OperatorFault(
                "no confinement is on trial; it was confirmed before, or taken back",
                code="EW-EXEC-043",
                next_step="see `edgewarden confine show`",
            )
        changed = self.changed(trial)
        if changed:
            raise OperatorFault(changed[0], code="EW-EXEC-041", next_step=_DRIFT_STEP)
        wanted = [
            File(made.path.replace(TRIAL_UNITS, KEPT_UNITS, 1), self._text(made.path))
            for made in trial.files
        ]
        units = {os.path.basename(made.path) for made in trial.files}
        turned = [(t.name, t.now) for t in trial.sysctls]
        wanted += standing(turned, noexec=NOEXEC_UNIT in units)
        self._refuse_foreign(wanted)
        made = tuple(Made(f.path, "" if f.link else _digest(f.text), f.link) for f in wanted)
        folders = tuple(self._missing_folders(wanted))
        kept = replace(trial, trial=False, files=made, folders=folders, login=())
        write(self._kept, kept.dump())
        for file in wanted:
            self._put(file)
        self._remove(trial.files, trial.folders)
        _forget(self._trial)
        self._must(self._systemd.do("daemon-reload"), "daemon-reload")
        return kept

    def revert(self, *, force: bool = False) -> list[str]:
        """Take everything back; returns what was left because somebody changed it.

        Raises:
            HardwareFault: EW-EXEC-042, a step failed; the record stays, to try again.
        """
        left: list[str] = []
        for record in (self._trial, self._kept):
            if not record.exists():
                continue
            try:
                old = self._read(record)
            except OperatorFault:
                if not force:
                    raise
                left.append("sysctls: their values before are not known any more, until a boot")
                old = self._by_name()
            left += self._undo(old, None, force=force)
            _forget(record)
        return left

    def _by_name(self) -> Applied:
        """What stands under the names that only this program gives, for want of a record."""
        names = [SYSCTL_FILE]
        for top in (KEPT_UNITS, TRIAL_UNITS):
            found = sorted(self._at(top).glob(f"*.d/{DROPIN}"))
            names += [f"{top}/{path.parent.name}/{path.name}" for path in found]
            names += [f"{top}/{NOEXEC_UNIT}", f"{top}/sysinit.target.wants/{NOEXEC_UNIT}"]
        there = [name for name in names if os.path.lexists(self._at(name))]
        units = [os.path.basename(os.path.dirname(n)).removesuffix(".d") for n in there]
        folders = [os.path.dirname(name) for name in there if name.endswith((DROPIN, NOEXEC_UNIT))]
        return Applied(
            trial=False,
            units=tuple(unit for unit in units if unit.endswith(".service")),
            files=tuple(Made(name) for name in there),
            folders=tuple(f for f in folders if f not in (KEPT_UNITS, TRIAL_UNITS)),
            mounts=tuple(Placed(u, "dropin", u) for u in units if u.endswith(".mount")),
        )

    def changed(self, applied: Applied) -> list[str]:
        """Files and sysctls that are not as they were made, in words."""
        found = []
        for made in applied.files:
            state = self._state(made)
            if state != "ours":
                found.append(f"{made.path}: {state}")
        for turned in applied.sysctls:
            now = self._sysctl(turned.name)
            if now != turned.now:
                found.append(f"{turned.name} is {now or 'gone'}, not {turned.now}")
        return found

    def dropins(self, applied: Applied) -> list[ServicePlan]:
        """The managed services as their files have them; without lines where the file is gone."""
        found = []
        for unit in applied.units:
            ends = f"/{unit}.d/{DROPIN}"
            path = next((made.path for made in applied.files if made.path.endswith(ends)), "")
            try:
                found.append(parse_dropin(unit, self._text(path)))
            except OSError:
                found.append(ServicePlan(unit))
        return found

    # --- steps -----------------------------------------------------------------------------------

    def _make(self, wanted: Sequence[File], new: Applied) -> None:
        for file in wanted:
            self._put(file)
        self._must(self._systemd.do("daemon-reload"), "daemon-reload")
        for turned in new.sysctls:
            if self._sysctl(turned.name) != turned.now:
                self._turn(turned.name, turned.now)
        for placed in new.mounts:
            if placed.method == "dropin":
                self._must(self._systemd.do("reload", placed.unit), f"reload {placed.unit}")
        if new.mounts:
            self._must(self._systemd.do("start", NOEXEC_UNIT), f"start {NOEXEC_UNIT}")

    def _undo(self, old: Applied, new: Applied | None, *, force: bool = True) -> list[str]:
        """Take back what old has and new has not; returns what was left."""
        kept = {made.path: made for made in new.files} if new else {}
        gone = [made for made in old.files if kept.get(made.path) != made]
        left = []
        if not force:
            changed = [made for made in gone if self._state(made) not in ("ours", "gone")]
            left += [f"{made.path}: {self._state(made)}" for made in changed]
            gone = [made for made in gone if made not in changed]
        if any(os.path.basename(made.path) == NOEXEC_UNIT for made in gone):
            self._systemd.do("stop", NOEXEC_UNIT)  # its ExecStop lines are the way back
        self._remove(gone, () if new else old.folders)
        self._must(self._systemd.do("daemon-reload"), "daemon-reload")
        still = {placed.path for placed in new.mounts} if new else set()
        for placed in old.mounts:
            if placed.method == "dropin" and placed.path not in still:
                self._systemd.do("reload", placed.unit)
        wanted = {turned.name for turned in new.sysctls} if new else set()
        for turned in old.sysctls:
            if turned.name in wanted:
                continue
            now = self._sysctl(turned.name)
            if now == turned.now or (force and now):
                self._turn(turned.name, turned.before)
            elif now not in ("", turned.before):
                left.append(f"{turned.name} is {now}, not {turned.now}")
        return left

    def _remove(self, some: Sequence[Made], folders: Sequence[str]) -> None:
        for made in some:
            self._at(made.path).unlink(missing_ok=True)
        for folder in sorted(folders, key=len, reverse=True):
            with contextlib.suppress(OSError):  # not empty: somebody else lives there now
                self._at(folder).rmdir()

    def _refuse_foreign(self, wanted: Sequence[File]) -> None:
        for file in wanted:
            if os.path.lexists(self._at(file.path)):
                raise OperatorFault(
                    f"{file.path} is there already and is not ours",
                    code="EW-EXEC-041",
                    next_step="look at it; rename or remove it, then apply again",
                )

    def _missing_folders(self, wanted: Sequence[File]) -> list[str]:
        found = []
        for file in wanted:
            at = os.path.dirname(file.path)
            while at != "/" and not self._at(at).exists():
                found.append(at)
                at = os.path.dirname(at)
        return sorted(set(found), key=len)

    def _put(self, file: File) -> None:
        where = self._at(file.path)
        try:
            where.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            if file.link:
                where.unlink(missing_ok=True)
                where.symlink_to(file.link)
            elif not where.exists() or where.read_text() != file.text:
                write(where, file.text.encode())
        except OSError as fault:
            raise failed(f"{file.path}: {os.strerror(fault.errno or 0)}") from fault

    def _state(self, made: Made) -> str:
        where = self._at(made.path)
        if not os.path.lexists(where):
            return "gone"
        if made.link:
            ours = where.is_symlink() and os.readlink(where) == made.link
            return "ours" if ours else "not our link any more"
        try:
            plain = where.is_file() and not where.is_symlink()
            ours = plain and hashlib.sha256(where.read_bytes()).hexdigest() == made.sha256
        except OSError as fault:
            return os.strerror(fault.errno or 0)
        return "ours" if ours else "changed since it was made"

    def _text(self, path: str) -> str:
        return self._at(path).read_text()

    def _sysctl(self, name: str) -> str:
        try:
            return self._at(f"/proc/sys/{name.replace('.', '/')}").read_text().strip()
        except OSError:
            return ""

    def _turn(self, name: str, value: str) -> None:
        try:
            self._at(f"/proc/sys/{name.replace('.', '/')}").write_text(f"{value}\n")
        except OSError as fault:
            raise failed(f"{name} = {value}: {os.strerror(fault.errno or 0)}") from fault

    def _must(self, ended: Ended, what: str) -> None:
        if ended.code != 0:
            lines = ended.text.strip().splitlines()
            raise failed(f"systemctl {what}: {lines[0] if lines else f'exit {ended.code}'}")

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")


def _union(old: Applied | None, new: Applied) -> Applied:
    """What may be there while one takes the other's place."""
    if old is None:
        return new
    return replace(
        new,
        files=(*new.files, *(made for made in old.files if made not in new.files)),
        folders=_unique([*old.folders, *new.folders]),
        sysctls=(*new.sysctls, *(t for t in old.sysctls if t not in new.sysctls)),
        mounts=(*new.mounts, *(m for m in old.mounts if m not in new.mounts)),
    )


def _forget(record: Path) -> None:
    record.unlink(missing_ok=True)
    if record.parent.name == os.path.dirname(APPLIED_NAME):
        with contextlib.suppress(OSError):  # a canary may be at work there
            record.parent.rmdir()


def _unique(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
