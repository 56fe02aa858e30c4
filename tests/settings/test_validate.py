"""The validator against files: every fault of a faulty one named with its line, every good one
accepted.

The faulty files carry their own verdict: `# expect: LINE CODE PATH [| SUGGESTION]`, one line for
each fault.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgewarden.settings.faults import MAX_SHOWN, SettingsFaults
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import MAX_FILE_BYTES, SourceFile
from edgewarden.settings.validate import MAX_FILES, Origin, load, load_settings

HERE = Path(__file__).parent
FAULTY = sorted((HERE / "faulty").glob("*.toml"))

GPS = '[[serial]]\nname = "gps"\nport = "/dev/ttyS0"\nformat = "nmea"\n'


def expected(text: str) -> list[tuple[int, str, str, str]]:
    wanted = []
    for line in text.splitlines():
        if not line.startswith("# expect: "):
            break
        verdict, _, suggestion = line.removeprefix("# expect: ").partition(" | ")
        number, code, path = verdict.split(" ")
        wanted.append((int(number), code, "" if path == "-" else path, suggestion))
    return wanted


def faults_of(*texts: str) -> list[str]:
    files = [SourceFile(f"{i:02}.toml", text) for i, text in enumerate(texts)]
    with pytest.raises(SettingsFaults) as caught:
        load_settings(files)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("file", FAULTY, ids=lambda f: f.stem)
def test_every_fault_of_a_faulty_file_is_named(file: Path) -> None:
    text = file.read_text()
    with pytest.raises(SettingsFaults) as caught:
        load_settings([SourceFile(file.name, text)])
    found = [(f.line, f.code, f.path, f.suggestion) for f in caught.value.faults]
    assert found == expected(text)
    assert all(f.file == file.name for f in caught.value.faults)


def test_there_are_enough_faulty_files() -> None:
    assert len(FAULTY) >= 20


def test_a_good_file_in_every_form_of_toml_is_accepted() -> None:
    text = (HERE / "good" / "walking.toml").read_text()
    settings = load_settings([SourceFile("walking.toml", text)])
    assert settings.device.id == "gw-demo"
    assert settings.uplink.port == 8883
    assert settings.exec.filesystems == ("/mnt/a", "/mnt/b")
    assert [s.name for s in settings.serial] == ["gps", "plc", "scale", "pump", "logger"]
    assert settings.serial[1].baud == 9600
    assert settings.serial[1].modbus[0].scale == pytest.approx(0.1)


def test_no_file_at_all_is_the_defaults() -> None:
    assert load_settings([]) == Settings()


def test_the_defaults_pass_their_own_limits() -> None:
    written = "[host]\nperiod_s = 10\n[spool]\nbulk_commit_s = 10\ncap_bytes = 268435456\n"
    assert load_settings([SourceFile("a", written)]) == Settings()


def test_a_later_file_wins_and_the_origin_says_so() -> None:
    loaded = load(
        [
            SourceFile("edgewarden.toml", "[host]\nperiod_s = 5\n[spool]\nbulk_commit_s = 1\n"),
            SourceFile("conf.d/20-site.toml", "# here\n\n[host]\nperiod_s = 7\n"),
        ]
    )
    assert loaded.settings.host.period_s == 7
    assert loaded.settings.spool.bulk_commit_s == 1
    assert loaded.origins["host", "period_s"] == Origin("conf.d/20-site.toml", 4)
    assert loaded.origins["spool", "bulk_commit_s"] == Origin("edgewarden.toml", 4)
    assert ("uplink", "window") not in loaded.origins


def test_serial_ports_merge_by_name() -> None:
    other = GPS.replace("gps", "sonde").replace("ttyS0", "ttyS1")
    again = '[[serial]]\nname = "gps"\nport = "/dev/ttyS9"\nformat = "jsonlines"\n'
    loaded = load([SourceFile("a", GPS + "baud = 4800\n"), SourceFile("b", other + again)])
    assert [(s.name, s.port, s.baud) for s in loaded.settings.serial] == [
        ("gps", "/dev/ttyS9", 9600),
        ("sonde", "/dev/ttyS1", 9600),
    ]
    assert ("serial", "gps", "baud") not in loaded.origins


def test_two_files_may_not_give_two_names_to_one_port() -> None:
    faults = faults_of(GPS, GPS.replace("gps", "sonde"))
    assert faults == ["01.toml:3: serial.sonde.port: already used by gps [EW-SET-010]"]


def test_tables_within_a_section_are_merged_by_their_name() -> None:
    one = '[[processes.required]]\nname = "a"\nunit = "a.service"\n'
    two = '[[processes.required]]\nname = "b"\nexe = "/usr/sbin/b"\n'
    again = '[processes]\nstorm_per_s = 99\n[[processes.required]]\nname = "a"\nprocess = "x"\n'
    loaded = load([SourceFile("1", one), SourceFile("2", two), SourceFile("3", again)])
    found = loaded.settings.processes
    assert [(r.name, r.unit, r.exe, r.process) for r in found.required] == [
        ("a", None, None, "x"),
        ("b", None, "/usr/sbin/b", None),
    ]
    assert found.storm_per_s == 99
    assert ("processes", "required", "a", "unit") not in loaded.origins
    assert loaded.origins["processes", "required", "b", "exe"].file == "2"


def test_a_required_process_must_be_named_somehow() -> None:
    with pytest.raises(SettingsFaults) as caught:
        load_settings([SourceFile("1", '[[processes.required]]\nname = "a"\n')])
    assert "one of unit, exe and process" in str(caught.value.faults[0])


def test_a_fault_is_named_even_where_a_later_file_overrides_it() -> None:
    faults = faults_of("[host]\nperiod_s = 0\n", "[host]\nperiod_s = 5\n")
    assert faults == ["00.toml:2: host.period_s: 0 is out of range (1 to 3600) [EW-SET-005]"]


def test_the_faults_of_all_files_come_in_one_report() -> None:
    assert len(faults_of("[host]\nperiod_s = 0\n", "[uplink\n", "x = 1\n")) == 3


def test_the_shape_of_a_message() -> None:
    (fault,) = faults_of('[uplink]\nport = "88x83"\n')
    assert fault == (
        '00.toml:2: uplink.port: "88x83" is not a whole number (1 to 65535); '
        "example: port = 8883 [EW-SET-004]"
    )


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 30_000,
        "x = " + "9" * 5_000,
        "\x00",
        '"' * 1000,
        "a." * 10_000 + "b = 1",
        "[" * 60_000,
        "\ufeff[host]\n",
    ],
    ids=["nested", "digits", "nul", "quotes", "dotted", "brackets", "bom"],
)
def test_hostile_text_is_refused_by_name(text: str) -> None:
    assert all("[EW-SET-0" in fault for fault in faults_of(text))


def test_a_large_file_is_refused_unread() -> None:
    (fault,) = faults_of("#" * (MAX_FILE_BYTES + 1))
    assert "EW-SET-011" in fault
    assert load_settings([SourceFile("a", "#" * MAX_FILE_BYTES)]) == Settings()


def test_too_many_files_are_refused() -> None:
    with pytest.raises(SettingsFaults, match="33 files"):
        load_settings([SourceFile(str(i), "") for i in range(MAX_FILES + 1)])


def test_a_report_of_nonsense_is_bounded_and_says_so() -> None:
    faults = faults_of("".join(f"k{i} = 1\n" for i in range(MAX_SHOWN + 50)))
    assert len(faults) == MAX_SHOWN + 1
    assert "50 more faults" in faults[-1]


def test_the_faulty_files_that_claim_to_be_toml_are() -> None:
    """Guards the corpus itself: a file meant to test the schema must not fail as syntax."""
    for file in FAULTY:
        syntax = any(code == "EW-SET-002" for _, code, _, _ in expected(file.read_text()))
        try:
            tomllib.loads(file.read_text())
            assert not syntax, file.name
        except tomllib.TOMLDecodeError:
            assert syntax, file.name


def test_a_required_key_on_a_line_that_cannot_be_read_is_one_fault_and_no_crash() -> None:
    with pytest.raises(SettingsFaults) as caught:
        load_settings([SourceFile("e", "[[serial]]\nname =\nport = '/dev/x'\nformat = 'nmea'\n")])
    assert [(f.line, f.code) for f in caught.value.faults] == [(2, "EW-SET-002")]
