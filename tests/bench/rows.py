"""A row of the bench: one figure, what it was held against, and whether it is good enough.

The shape is the public one (schema edgewarden.bench/1). A row is specified before anything runs, so
that a figure which could not be taken is still there, with ``value`` null and the reason in
``what``: nothing is left out in silence, and such a row is never met.

Every row has a target. Where an issue names one, it stands there; where none does, it is a bound of
ours (the figure on the reference machine and some room, in docs/performance.md), so that ``met``
always says something.

    GATE = Spec("gate.exec-cached", "p50 of an exec, watched / unwatched", "x", 1.08)
    Figure("gate.exec-cached", 1.05, against="500 us unwatched", runs=5)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

SCHEMA = "edgewarden.bench/1"
LOWER, HIGHER = "lower", "higher"
COLUMNS = {
    "id": str, "what": str, "value": (int, float, type(None)), "unit": str, "against": str,
    "target": (int, float), "better": str, "met": bool, "runs": int,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spec:
    """What a row measures, fixed before it is measured.

    Attributes:
        id: area and name.
        what: the quantity and how it is taken, one line.
        unit: of value and target.
        target: the bound.
        better: on which side of the target it is met.
    """

    id: str
    what: str
    unit: str
    target: float
    better: str = LOWER


@dataclass(frozen=True, slots=True)
class Figure:
    """A measurement: the median of ``runs``, and the peer or limit of the same run."""

    id: str
    value: float | None
    against: str = ""
    runs: int = 0
    note: str = ""


def row(spec: Spec, figure: Figure) -> dict[str, object]:
    """One row of the JSON."""
    value = None if figure.value is None else round(figure.value, 4)
    if value is None:
        met = False
    else:
        met = value <= spec.target if spec.better == LOWER else value >= spec.target
    return {
        "id": spec.id,
        "what": f"{spec.what}; {figure.note}" if figure.note else spec.what,
        "value": value,
        "unit": spec.unit,
        "against": figure.against,
        "target": spec.target,
        "better": spec.better,
        "met": met,
        "runs": figure.runs,
    }


def rows(specs: Sequence[Spec], figures: Iterable[Figure], reason: str) -> list[dict[str, object]]:
    """Rows in the order of the specs; the ones without a figure say ``reason``."""
    found = {figure.id: figure for figure in figures}
    missing = f"not measured: {reason}"
    return [row(spec, found.get(spec.id, Figure(spec.id, None, note=missing))) for spec in specs]


def faults(body: object) -> list[str]:
    """What a bench JSON has that the schema does not allow; [] when it is as it must be."""
    if not isinstance(body, dict) or set(body) != {"schema", "machine", "rows"}:
        return ["not an object of schema, machine and rows"]
    found = [] if body["schema"] == SCHEMA else [f"schema is {body['schema']!r}"]
    if not isinstance(body["machine"], dict) or not body["machine"]:
        found.append("machine says nothing")
    seen: set[str] = set()
    for one in body["rows"]:
        name = str(one.get("id"))
        if set(one) != set(COLUMNS):
            found.append(f"{name}: other columns")
            continue
        found += [f"{name}.{c}" for c, kind in COLUMNS.items() if not isinstance(one[c], kind)]
        if name in seen:
            found.append(f"{name} twice")
        seen.add(name)
        if one["better"] not in (LOWER, HIGHER):
            found.append(f"{name}.better is {one['better']!r}")
        if one["value"] is None and (one["met"] or "not measured: " not in one["what"]):
            found.append(f"{name} has neither a value nor a reason")
    return found


def table(body: Sequence[dict[str, object]]) -> str:
    """The rows for a person."""
    lines = [f"{'row':31} {'value':>9} {'':1} {'target':>8} unit    met  against"]
    for one in body:
        value = "-" if one["value"] is None else f"{one['value']:.4g}"
        side = "<=" if one["better"] == LOWER else ">="
        met = "yes" if one["met"] else "NO" if one["value"] is not None else "-"
        against = one["against"] or str(one["what"]).partition("not measured: ")[2]
        bound = f"{side} {one['target']:>7g} {one['unit']:7}"
        lines.append(f"{one['id']:31} {value:>9} {bound} {met:4} {against}")
    return "\n".join(lines)


def markdown(body: Sequence[dict[str, object]]) -> str:
    """The rows for docs/performance.md, which holds one whole run between its markers."""
    lines = ["| row | what | value | target | | beside it |", "|---|---|---|---|---|---|"]
    for one in body:
        side = "at most" if one["better"] == LOWER else "at least"
        what, _, missing = str(one["what"]).partition("not measured: ")
        if one["value"] is None:
            value, met = "-", f"not measured: {missing}"
        else:
            value = f"**{one['value']:.4g}** {one['unit']}"
            met = "met" if one["met"] else "**not met**"
        cells = [one["id"], what.rstrip("; "), value, f"{side} {one['target']:g}", met]
        lines.append("| " + " | ".join(_cell(c) for c in (*cells, one["against"])) + " |")
    return "\n".join(lines)


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")


def middle(values: Iterable[float]) -> float:
    """The median."""
    return float(median(values))
