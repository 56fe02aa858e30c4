"""The mode of each area (programs, peripherals, network): who chose it, on trial or not, and what
holds it down.

What this decides, in order:

1. What a person last said on this host is the area's mode, else what the settings say. It is kept
   over a restart in state/policy, a file for each area.
2. A ceiling holds an area at observe, whatever was said before: guard had to end gate too often,
   two boots in a row did not become healthy, the kill switch lies on the boot partition. A person
   who asks for enforce now lifts it, with a trial for its time, unless it is firm (the kill switch:
   whoever holds the card has the last word).
3. A mode asked for with a time limit is a trial. It is not kept over a restart, and the mode before
   it comes back by itself, with an alarm. Who has locked himself out has only to wait.
4. A trial is confirmed from a login that began after it (gate/sessions.py): that somebody still
   sits there proves nothing, that he came in again does.
5. An area that refuses a mode keeps the one it has, and nothing is kept.

    unspoken --person--> kept <--confirm-- trial --time--> the mode before
                          ^                  ^
                          +----- person -----+         ceiling: observe until lifted

What it leaves to others: bringing a mode about (each area), who may speak (gate/sockets.py).

    modes = Modes({"exec": arming, ...}, files=policy, alarm=..., mono_s=time.monotonic)
    modes.start(); modes.ask("exec", "enforce", 600, session); modes.look()
"""

from __future__ import annotations

from edgewarden.errors import OperatorFault
from edgewarden.gate.sessions import REFUSALS
from edgewarden.wire.lean import Frozen, field_names
from edgewarden.wire.local_messages import AreaStats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from edgewarden.gate.sessions import Session

    class Area(Protocol):
        """One area of enforcement; every method on gate's thread, none may wait."""

        def apply(self, mode: str, trial_s: int) -> str:
            """A person's word: bring ``mode`` about, or raise with nothing changed.

            Args:
                mode: of MODES.
                trial_s: it will be taken back after so many seconds; 0 for no such limit. An area
                    whose effect outlives gate makes the kernel forget it by then.

            Returns:
                What was done, in words; "" for nothing to add.

            Raises:
                EdgewardenError: why not; field ``name`` names the refusal.
            """

        def settle(self, mode: str) -> None:
            """At the start, after a trial, under a ceiling: as near to ``mode`` as is possible, and
            an alarm for what is missing. Raises nothing."""

        def stats(self) -> AreaStats:
            """The picture of this moment; the fields that modes know are filled in by them."""

    class Files(Protocol):
        """Where a person's word is kept."""

        def asked(self, area: str) -> str:
            """What the file says, else the settings' mode."""

        def keep(self, area: str, mode: str) -> str:
            """Remember it; returns what was done, in words."""


class Trial(Frozen):
    """A mode that goes back by itself.

    Attributes:
        back: the mode that comes back.
        ceiling: what held it down before, and does again; "" for nothing.
        due_mono: when.
        by: the login it was asked for from.
    """

    __slots__ = ("back", "by", "ceiling", "due_mono")
    back: str
    due_mono: float
    by: Session
    ceiling: str


class Modes:
    """See the module.

    Args:
        areas: by name, of AREAS.
        files: keeps a person's word.
        alarm: (code, severity, text).
        mono_s: CLOCK_MONOTONIC in seconds.
    """

    __slots__ = ("_alarm", "_areas", "_ceilings", "_files", "_modes", "_mono_s", "_trials")

    def __init__(
        self,
        areas: Mapping[str, Area],
        *,
        files: Files,
        alarm: Callable[[str, int, str], None],
        mono_s: Callable[[], float],
    ) -> None:
        self._areas = areas
        self._files = files
        self._alarm = alarm
        self._mono_s = mono_s
        self._modes = {name: files.asked(name) for name in areas}
        self._trials: dict[str, Trial] = {}
        self._ceilings: dict[str, tuple[str, bool]] = {}

    def start(self) -> None:
        """Bring about what was asked for; ceilings that hold from the start are set before."""
        for name, area in self._areas.items():
            area.settle(self.mode(name))

    def mode(self, area: str) -> str:
        """What is in force now."""
        asked = self._modes[area]
        return "observe" if asked == "enforce" and area in self._ceilings else asked

    def ceiling(self, area: str) -> str:
        """What holds the area down, "" for nothing."""
        return self._ceilings.get(area, ("", False))[0]

    def trial_s(self, area: str) -> int:
        """Seconds until the mode goes back by itself, 0 when it is not on trial."""
        trial = self._trials.get(area)
        return 0 if trial is None else max(1, int(trial.due_mono - self._mono_s()))

    def hold_down(
        self, area: str, why: str, *, firm: bool = False, code: str = "EW-EXEC-004"
    ) -> None:
        """Observe instead of enforce from now on, with an alarm where that changes something.

        A firm ceiling stays firm, whatever comes after it.
        """
        before = self.mode(area)
        if self._ceilings.get(area, ("", False))[1] and not firm:
            return
        self._ceilings[area] = (why, firm)
        if before == "enforce":
            self._trials.pop(area, None)
            self._alarm(code, 5, f"{area}: observe instead of enforce: {why}")
            self._areas[area].settle("observe")

    def hold_all_down(self, why: str, *, firm: bool = False) -> None:
        """As ``hold_down``, every area."""
        for name in self._areas:
            self.hold_down(name, why, firm=firm, code="EW-EXEC-035")

    def look(self) -> None:
        """On a timer: is a trial over?"""
        now_mono = self._mono_s()
        for name, trial in list(self._trials.items()):
            if now_mono < trial.due_mono:
                continue
            del self._trials[name]
            tried, self._modes[name] = self._modes[name], trial.back  # as the file says all along
            if trial.ceiling:
                self._ceilings[name] = (trial.ceiling, False)
            text = f"{name}: {tried} was not confirmed in time: {self.mode(name)} again"
            self._alarm("EW-EXEC-025", 3, text)
            self._areas[name].settle(self.mode(name))

    def ask(self, area: str, mode: str, confirm_s: int, by: Session) -> str:
        """A person's word.

        Args:
            area: of AREAS.
            mode: of MODES.
            confirm_s: not 0: on trial for so many seconds.
            by: the login it comes from.

        Returns:
            What was done, in words.

        Raises:
            OperatorFault: field name ``held_down``, ``no_such_area``, or as the area says.
            HardwareFault: the kernel refuses.
        """
        part = self._part(area)
        why, firm = self._ceilings.get(area, ("", False))
        if mode == "enforce" and firm:
            raise OperatorFault(
                f"{area} is held at observe: {why}",
                code="EW-EXEC-035",
                next_step="remove what holds it down, then restart edgewarden-gate",
                name="held_down",
            )
        before, in_force = self._modes[area], self.mode(area)
        words = part.apply(mode, confirm_s)
        self._ceilings.pop(area, None) if mode == "enforce" else None
        self._modes[area] = mode
        if confirm_s:
            earlier = self._trials.get(area)
            if earlier is not None:
                before, why = earlier.back, earlier.ceiling
                in_force = "observe" if why and before == "enforce" else before
            self._trials[area] = Trial(before, self._mono_s() + confirm_s, by, why)
            kept = f"{in_force} again in {confirm_s} s unless confirmed from a new login"
        else:
            self._trials.pop(area, None)
            kept = self._files.keep(area, mode)
        return "; ".join(part for part in (mode, words, kept) if part)

    def confirm(self, area: str, by: Session) -> str:
        """A person still gets in: the mode on trial stays.

        Raises:
            OperatorFault: field name ``nothing_to_confirm``, ``no_such_area``, or of REFUSALS.
        """
        part = self._part(area)
        trial = self._trials.get(area)
        if trial is None:
            text = f"{area}: no mode is on trial; it was confirmed before, or went back by itself"
            raise OperatorFault(text, code="EW-EXEC-025", name="nothing_to_confirm")
        if refusal := by.why_not(trial.by):
            raise OperatorFault(
                f"{area}: {REFUSALS[refusal]}",
                code="EW-EXEC-026",
                next_step="log in again (a new ssh connection) and confirm from there",
                name=refusal,
            )
        mode = self._modes[area]
        words = part.apply(mode, 0)
        del self._trials[area]
        return "; ".join(part for part in (mode, words, self._files.keep(area, mode)) if part)

    def stats(self, area: str) -> AreaStats:
        """The area's picture with mode, trial and ceiling.

        Raises:
            OperatorFault: field name ``no_such_area``.
        """
        told = self._part(area).stats()
        values = {name: getattr(told, name) for name in field_names(told)}
        values["trial_s"] = self.trial_s(area)
        if self.ceiling(area):
            values["why_not"] = f"held at observe: {self.ceiling(area)}"
        return AreaStats(**values)

    def all_stats(self) -> list[AreaStats]:
        """The pictures of every area but programs, whose own is GateStats."""
        return [self.stats(name) for name in self._areas if name != "exec"]

    def _part(self, area: str) -> Area:
        part = self._areas.get(area)
        if part is None:
            text = f"this gate has no area {area!r}"
            raise OperatorFault(text, code="EW-EXEC-024", name="no_such_area")
        return part
