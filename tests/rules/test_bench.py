"""The bench's public shape (edgewarden.bench/1). No figure and no time is asserted here."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.bench import run
from tests.bench.rows import LOWER, SCHEMA, Figure, Spec, faults, markdown, row, rows, table

SPECS = (Spec("area.one", "one thing", "us", 5.0), Spec("area.two", "another", "x", 2.0, "higher"))


def body(figures: list[Figure]) -> dict[str, object]:
    made = rows(SPECS, figures, "the board was away")
    return {"schema": SCHEMA, "machine": {"cores": 2}, "rows": made}


def test_rows_keep_the_order_of_the_specs_and_the_schema() -> None:
    one = body([Figure("area.two", 2.5, "raw", 3), Figure("area.one", 5.1, "raw", 3, "a note")])
    assert faults(json.loads(json.dumps(one))) == []
    first, second = one["rows"]  # type: ignore[misc]
    assert (first["id"], first["met"], first["what"]) == ("area.one", False, "one thing; a note")
    assert (second["value"], second["met"], second["runs"]) == (2.5, True, 3)


def test_a_row_that_was_not_measured_is_there_with_its_reason_and_never_met() -> None:
    made = body([Figure("area.one", 4.0)])
    missing = made["rows"][1]  # type: ignore[index]
    assert missing["value"] is None
    assert missing["met"] is False
    assert missing["what"] == "another; not measured: the board was away"
    assert faults(made) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"value": None, "met": False}, "area.one has neither a value nor a reason"),
        ({"value": None, "met": True, "what": "not measured: x"}, "area.one has neither"),
        ({"better": "faster"}, "area.one.better"),
        ({"met": 1}, "area.one.met"),
        ({"target": "5"}, "area.one.target"),
        ({"id": "area.two"}, "area.two twice"),
    ],
)
def test_a_wrong_row_is_seen(change: dict[str, object], fault: str) -> None:
    made = body([Figure("area.one", 4.0), Figure("area.two", 4.0)])
    made["rows"][0].update(change)  # type: ignore[index]
    assert any(found.startswith(fault) for found in faults(made)), faults(made)


def test_a_missing_column_and_another_schema_are_seen() -> None:
    made = body([Figure("area.one", 4.0)])
    del made["rows"][0]["against"]  # type: ignore[index]
    assert faults(made) == ["area.one: other columns"]
    assert faults({**body([]), "schema": "bench/0"}) == ["schema is 'bench/0'"]
    assert faults([]) == ["not an object of schema, machine and rows"]


def test_met_is_on_the_right_side() -> None:
    low, high = SPECS
    assert [row(low, Figure(low.id, v))["met"] for v in (4.9, 5.0, 5.1)] == [True, True, False]
    assert [row(high, Figure(high.id, v))["met"] for v in (1.9, 2.0, 2.1)] == [False, True, True]


def test_every_area_says_what_it_measures_before_it_runs() -> None:
    specs = [s for name in run.AREAS for s in importlib.import_module(f"tests.bench.{name}").SPECS]
    assert faults(body([]) | {"rows": rows(specs, [], "not asked")}) == []
    assert {s.id: s.target for s in specs}["footprint.pss"] == 40.0
    assert {s.id: s.target for s in specs}["footprint.idle-cpu"] == 0.5
    assert {s.id: s.target for s in specs}["footprint.first-report"] == 3.0
    assert {s.better for s in specs if s.id.startswith("footprint.")} == {LOWER}


def test_an_area_that_fails_keeps_what_it_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Area:
        SPECS = SPECS

        @staticmethod
        def measure(place: object):  # type: ignore[no-untyped-def]
            yield Figure("area.one", 1.0, runs=1)
            raise RuntimeError("it fell over")

    monkeypatch.setattr(run.importlib, "import_module", lambda name: Area)
    monkeypatch.setattr(run, "AREAS", ("area",))
    out = tmp_path / "bench.json"
    assert run.main(["--json", str(out)]) == 0
    made = json.loads(out.read_text())
    assert faults(made) == []
    assert made["rows"][0]["value"] == 1.0
    assert "not measured: RuntimeError: it fell over" in made["rows"][1]["what"]


def test_no_row_by_that_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--only", "nothing."]) == 64
    assert "no row begins with" in capsys.readouterr().err


def test_the_table_shows_every_row() -> None:
    made = body([Figure("area.one", 4.0, "raw 3 us")])
    text = table(made["rows"])  # type: ignore[arg-type]
    assert "area.one" in text
    assert "the board was away" in text


def test_the_page_of_results_says_of_each_row_whether_it_is_met_or_why_it_is_not_there() -> None:
    made = body([Figure("area.one", 5.1, "raw | bare", 3)])
    head, ruler, one, two = markdown(made["rows"]).splitlines()  # type: ignore[arg-type]
    assert len({line.replace("\\|", "").count("|") for line in (head, ruler, one, two)}) == 1
    assert "| **5.1** us | at most 5 | **not met** | raw \\| bare |" in one
    assert "| - | at least 2 | not measured: the board was away |" in two
