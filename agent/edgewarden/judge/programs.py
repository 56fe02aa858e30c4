"""The rules about programs on this gateway: which content each of them selects, and what is odd.

What this decides: what ``[[program]]`` (settings/policy_programs.py) comes to with the baseline of
one system (wire/baseline.py), as the parts of gate's table (judge/exec_table.py).

Rules in order:

1. ``sha256``, ``path``, ``package`` and ``class`` select contents of the baseline: alternatives
   within a key, all keys together. Paths are compared after the aliases of the baseline were
   followed (``/bin/ls`` and ``/usr/bin/ls`` are one). A package selects what it brought, not a
   file that was changed since (``differs``). ``sha256`` alone may name what the baseline lacks.
2. A rule without such a key is about every content.
3. ``parent`` becomes the contents that the baseline has there, ``uid`` numbers. What nothing here
   answers to stays a condition, and one that never holds: leaving it out would widen the rule.
4. A name that nothing answers to is a note, never a fault: one policy serves many gateways.

What it leaves to others: reading files, users' numbers, the critical set (judge/critical.py).

    found = select(policy.program, baseline, {"pi": 1000}.get)
    found.effects[0].contents; found.specs; found.rules_of[digest]
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgewarden.errors import OperatorFault
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import MAX_CONDITIONS, RuleSpec
from edgewarden.plain import dataclass, field
from edgewarden.settings.policy_programs import Program
from edgewarden.wire.baseline import Baseline, Entry
from edgewarden.wire.local_messages import UNKNOWN_UID

NOBODY = (UNKNOWN_UID, UNKNOWN_UID)
"""No process has it ((uid_t)-1): the condition of a user that does not exist here."""
NO_PARENT = bytes(32)
"""No content has it: the condition of a parent that the baseline lacks."""

_WILD = re.compile(r"[*?]")
_GLOB = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_PIECES = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_RANK = ("loader", "shell", "interpreter", "program", "library", "script", "module", "data")
"""Which class a content has that lies under two paths: the one that is looked at more closely."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something odd about a rule, in words; never a fault."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What one rule comes to.

    Attributes:
        contents: how many it selects; 0 for a rule about every content.
        every: it is about every content.
        dead: an earlier rule decides in every case that this one could.
    """

    name: str
    contents: int
    every: bool
    dead: bool


@dataclass(slots=True)
class Selected:
    """See the module.

    Attributes:
        specs: the rules for the table, in their order.
        rules_of: content -> numbers of the rules that name it, ascending.
        kinds: content -> its class.
        effects: one for each rule.
        notes: what is odd.
    """

    specs: list[RuleSpec] = field(default_factory=list)
    rules_of: dict[bytes, list[int]] = field(default_factory=dict)
    kinds: dict[bytes, str] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def select(
    rules: Sequence[Program], baseline: Baseline, uid_of: Callable[[str], int | None]
) -> Selected:
    """Resolve the rules; see the module.

    Args:
        uid_of: a user's name -> number, None for nobody.

    Raises:
        OperatorFault: EW-EXEC-012, a rule comes to more parents than the table takes.
    """
    index = _Index(baseline)
    found = Selected()
    for entry in baseline.entries:
        last = found.kinds.get(entry.sha256, "data")
        found.kinds[entry.sha256] = min(last, entry.kind, key=_RANK.index)
    wide: list[Rule] = []
    for number, rule in enumerate(rules):
        chosen = index.contents(rule, found.notes)
        for digest in chosen:
            found.rules_of.setdefault(digest, []).append(number)
        found.specs.append(RuleSpec(_subject(rule, index, uid_of, found.notes), _every(rule)))
        spec = found.specs[number]
        dead = _is_dead(number, chosen, found, wide)
        if spec.any_content:
            wide.append(spec.rule)
        found.effects.append(Effect(rule.name, len(chosen), _every(rule), dead))
    _note_effects(rules, found)
    return found


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path is like a pattern of the policy."""
    parts = (_PIECES.get(part, re.escape(part)) for part in _GLOB.findall(pattern))
    form = re.compile("".join(parts), re.DOTALL)
    return lambda path: form.fullmatch(path) is not None


class Paths:
    """The baseline by path."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._paths = [entry.path for entry in baseline.entries]

    def under(self, pattern: str) -> list[Entry]:
        """What lies under a path or a pattern of them, after the aliases were followed."""
        literal = _WILD.split(pattern, maxsplit=1)[0]
        folder = literal if literal == pattern else literal.rpartition("/")[0]
        rest = pattern[len(folder) :]
        pattern = (self._baseline.resolve(folder) if folder else "") + rest
        if not rest:
            return self._at(pattern)
        literal = _WILD.split(pattern, maxsplit=1)[0]
        like = matcher(pattern)
        at = bisect_left(self._paths, literal)
        found = []
        while at < len(self._paths) and self._paths[at].startswith(literal):
            if like(self._paths[at]):
                found.append(self._baseline.entries[at])
            at += 1
        ways = self._baseline.aliases  # one that the pattern names leads to a file elsewhere
        ends = {ways[name] for name in ways if name.startswith(literal) and like(name)}
        return found + [entry for end in sorted(ends) for entry in self._at(end)]

    def _at(self, path: str) -> list[Entry]:
        at = bisect_left(self._paths, path)
        same = at < len(self._paths) and self._paths[at] == path
        return [self._baseline.entries[at]] if same else []


class _Index(Paths):
    """The baseline by package, class and content too."""

    def __init__(self, baseline: Baseline) -> None:
        super().__init__(baseline)
        self._by: dict[str, dict[str, list[Entry]]] = {"package": {}, "class": {}}
        self._digests: dict[bytes, list[Entry]] = {}
        for entry in baseline.entries:
            self._by["class"].setdefault(entry.kind, []).append(entry)
            if not entry.differs:
                self._by["package"].setdefault(entry.package or "-", []).append(entry)
            self._digests.setdefault(entry.sha256, []).append(entry)

    def contents(self, rule: Program, notes: list[Note]) -> dict[bytes, None]:
        """What a rule selects, in the baseline's order."""
        sieves: list[dict[int, Entry]] = []
        if rule.path:
            sieves.append(self._keyed(rule, "path", rule.path, self.under, notes))
        if rule.package:
            sieves.append(self._keyed(rule, "package", rule.package, self._packaged, notes))
        if rule.class_:
            named = [e for kind in rule.class_ for e in self._by["class"].get(kind, ())]
            sieves.append({id(entry): entry for entry in named})
        digests = [bytes.fromhex(text) for text in rule.sha256]
        if not sieves:
            return dict.fromkeys(digests)
        if digests:
            sieves.append({id(e): e for d in digests for e in self._digests.get(d, ())})
        sieves.sort(key=len)
        return {
            entry.sha256: None
            for number, entry in sieves[0].items()
            if all(number in sieve for sieve in sieves[1:])
        }

    def _keyed(
        self,
        rule: Program,
        key: str,
        values: Sequence[str],
        find: Callable[[str], list[Entry]],
        notes: list[Note],
    ) -> dict[int, Entry]:
        found: dict[int, Entry] = {}
        for value in values:
            here = find(value)
            if not here:
                notes.append(Note(rule.name, f"nothing in the baseline answers to {key} {value}"))
            found.update((id(entry), entry) for entry in here)
        return found

    def _packaged(self, name: str) -> list[Entry]:
        packages = self._by["package"]
        if name == "*":
            return [e for owner, own in packages.items() if owner != "-" for e in own]
        return packages.get(name, [])


def _every(rule: Program) -> bool:
    return not rule.about_content


def _subject(
    rule: Program,
    index: _Index,
    uid_of: Callable[[str], int | None],
    notes: list[Note],
) -> Rule:
    uids = []
    for value in rule.uid:
        low, _, high = value.partition("-")
        if low.isdecimal():
            uids.append((int(low), int(high or low)))
            continue
        number = uid_of(value)
        if number is None:
            notes.append(Note(rule.name, f"no user here is called {value}"))
        uids.append(NOBODY if number is None else (number, number))
    parents: dict[bytes, None] = {}
    for pattern in rule.parent:
        there = index.under(pattern)
        if not there:
            notes.append(Note(rule.name, f"nothing in the baseline answers to parent {pattern}"))
        parents.update((entry.sha256, None) for entry in there)
    if len(parents) > MAX_CONDITIONS:
        raise OperatorFault(
            f"rule {rule.name}: {len(parents)} parents; {MAX_CONDITIONS} are the most",
            code="EW-EXEC-012",
            next_step="name fewer of them, or split the rule in two",
        )
    if rule.parent and not parents:
        parents[NO_PARENT] = None
    return Rule(rule.name, rule.action == "allow", tuple(uids), tuple(parents), rule.unit)


def _is_dead(
    number: int, chosen: Mapping[bytes, None], found: Selected, wide: Sequence[Rule]
) -> bool:
    """Whether an earlier rule decides wherever this one could; ``wide`` are about every content."""
    spec = found.specs[number]
    if any(_covers(rule, spec.rule) for rule in wide):
        return True
    if not chosen:
        return False
    return all(
        any(i < number and _covers(found.specs[i].rule, spec.rule) for i in found.rules_of[digest])
        for digest in chosen
    )


def _covers(earlier: Rule, later: Rule) -> bool:
    """Whether the earlier one's conditions on the subject hold whenever the later one's do."""
    pairs: Iterator[tuple[tuple[object, ...], tuple[object, ...]]] = iter(
        (
            (earlier.uids, later.uids),
            (earlier.parents, later.parents),
            (earlier.units, later.units),
        )
    )
    return all(not wide or (narrow and set(narrow) <= set(wide)) for wide, narrow in pairs)


def _note_effects(rules: Sequence[Program], found: Selected) -> None:
    last_allow: dict[bytes, int] = {}
    for digest, numbers in found.rules_of.items():
        last_allow[digest] = max((n for n in numbers if found.specs[n].rule.allow), default=-1)
    named: dict[int, bool] = {}
    for digest, numbers in found.rules_of.items():
        for number in numbers:
            named[number] = named.get(number, False) or last_allow[digest] > number
    for number, (rule, effect) in enumerate(zip(rules, found.effects, strict=True)):
        if effect.dead:
            text = "can never decide: an earlier rule decides in every case of this one"
            found.notes.append(Note(rule.name, text))
        elif not effect.every and not effect.contents:
            found.notes.append(Note(rule.name, "selects nothing here"))
        elif rule.action == "deny" and not effect.every and not named.get(number, False):
            text = "changes nothing: no later rule would allow what it denies"
            found.notes.append(Note(rule.name, text))
