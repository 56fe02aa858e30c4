"""The settings and policy files on disk: find them, read them within limits, hand their text to
settings/.

The first rung of doctor's ladder, and what each process calls once at its start and again on
SIGHUP. Blocks on the disk. Finds ``FILE`` itself and ``conf.d/NN-*.toml`` beside it, in the order
of their names; a name that does not start with two digits and a hyphen is not read (editors leave
``20-site.toml~`` behind). A symbolic link is followed: the directories belong to root.

    settings = read_settings("/etc/edgewarden/edgewarden.toml")
"""

from __future__ import annotations

import re
from pathlib import Path

from edgewarden.settings.faults import UNREADABLE, Fault, SettingsFaults
from edgewarden.settings.policy import MAX_POLICY_BYTES, Policy, load_policy
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import MAX_FILE_BYTES, SourceFile
from edgewarden.settings.validate import MAX_FILES, Loaded, load

DEFAULT_SETTINGS = "/etc/edgewarden/edgewarden.toml"
DROP_IN = re.compile(r"[0-9]{2}-[^/]*\.toml")


def read_settings(path: str) -> Settings:
    """Return the settings of the file and its conf.d.

    Raises:
        SettingsFaults: files that cannot be read, and every fault in those that can.
    """
    return read_loaded(path).settings


def read_loaded(path: str) -> Loaded:
    """As ``read_settings``, with the origin of each value.

    Raises:
        SettingsFaults: files that cannot be read, and every fault in those that can.
    """
    sources: list[SourceFile] = []
    faults: list[Fault] = []
    for file in settings_files(path):
        try:
            sources.append(_text(file, MAX_FILE_BYTES))
        except SettingsFaults as unreadable:
            faults += unreadable.faults
    try:
        loaded = load(sources)
    except SettingsFaults as broken:
        raise SettingsFaults([*faults, *broken.faults]) from None
    if faults:
        raise SettingsFaults(faults)
    return loaded


def settings_files(path: str) -> list[Path]:
    """Return the files that make up the settings, in the order in which later ones win."""
    main = Path(path)
    drop_ins = main.parent / "conf.d"
    try:
        named = sorted(item for item in drop_ins.iterdir() if DROP_IN.fullmatch(item.name))
    except (FileNotFoundError, NotADirectoryError):
        named = []
    except OSError as fault:
        raise SettingsFaults([_unreadable(str(drop_ins), fault)]) from fault
    return [main, *named[: MAX_FILES + 1]]


def read_policy(path: str) -> Policy:
    """Return the allowlist of a file.

    Raises:
        SettingsFaults: it cannot be read, or every fault in it.
    """
    return load_policy(_text(Path(path), MAX_POLICY_BYTES))


def _text(path: Path, max_bytes: int) -> SourceFile:
    """Read one file, at most one byte more than its limit: whatever is larger is refused."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            text = f"more than {max_bytes} bytes"
            raise SettingsFaults([Fault(str(path), 0, "", text, UNREADABLE)])
        return SourceFile(str(path), data.decode("utf-8"))
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        text = "not UTF-8"
        raise SettingsFaults([Fault(str(path), line, "", text, UNREADABLE)]) from None
    except OSError as fault:
        raise SettingsFaults([_unreadable(str(path), fault)]) from fault


def _unreadable(path: str, fault: OSError) -> Fault:
    return Fault(path, 0, "", f"cannot be read: {fault.strerror}", UNREADABLE)
