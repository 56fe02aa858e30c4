"""Which files are the settings, and in which order later ones win.

``FILE`` itself, then ``conf.d/NN-*.toml`` beside it in the order of their names; a name that does
not start with two digits and a hyphen is not read (editors leave ``20-site.toml~`` behind). A file
that cannot be read is one fault among the others: the rest is still checked.

What it leaves to others: the disk itself, which comes in as a parameter (probe/disk.py is the real
one), and keeping the last good tree when this raises (daemon/).

    settings = read_settings("/etc/edgewarden/edgewarden.toml", Disk())
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Protocol

from edgewarden.errors import HardwareFault
from edgewarden.settings.faults import NOT_THERE, UNREADABLE, Fault, SettingsFaults
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import MAX_FILE_BYTES, SourceFile
from edgewarden.settings.validate import MAX_FILES, Loaded, load

if TYPE_CHECKING:
    from edgewarden.settings.policy import Policy

DROP_IN = re.compile(r"[0-9]{2}-[^/]*\.toml")


class Files(Protocol):
    """Files that people write. Blocks on the disk; any thread; nothing to close."""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, none if it does not exist. Raises HardwareFault for other reasons."""

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """At most ``max_bytes`` + 1 bytes of a file. Raises HardwareFault with the reason."""


def read_settings(path: str, disk: Files) -> Settings:
    """Return the settings of the file and its conf.d.

    Raises:
        SettingsFaults: files that cannot be read, and every fault in those that can.
    """
    return read_loaded(path, disk).settings


def read_loaded(path: str, disk: Files) -> Loaded:
    """As ``read_settings``, with the origin of each value.

    Raises:
        SettingsFaults: files that cannot be read, and every fault in those that can.
    """
    sources: list[SourceFile] = []
    faults: list[Fault] = []
    for file in settings_files(path, disk):
        try:
            sources.append(_text(file, MAX_FILE_BYTES, disk))
        except SettingsFaults as unreadable:
            faults += unreadable.faults
    try:
        loaded = load(sources)
    except SettingsFaults as broken:
        raise SettingsFaults([*faults, *broken.faults]) from None
    if faults:
        raise SettingsFaults(faults)
    return loaded


def readable_sources(path: str, disk: Files) -> list[SourceFile]:
    """Those of the settings' files that can be read; the faults are ``read_loaded``'s to tell."""
    try:
        files = settings_files(path, disk)
    except SettingsFaults:
        files = [path]
    sources: list[SourceFile] = []
    for file in files:
        with contextlib.suppress(SettingsFaults):
            sources.append(_text(file, MAX_FILE_BYTES, disk))
    return sources


def settings_files(path: str, disk: Files) -> list[str]:
    """Return the files that make up the settings, in the order in which later ones win.

    Raises:
        SettingsFaults: conf.d exists and cannot be listed.
    """
    folder = path.rpartition("/")[0]
    drop_ins = f"{folder}/conf.d" if folder or path.startswith("/") else "conf.d"
    try:
        named = sorted(name for name in disk.names(drop_ins) if DROP_IN.fullmatch(name))
    except HardwareFault as fault:
        raise SettingsFaults([Fault(drop_ins, 0, "", fault.text, UNREADABLE)]) from fault
    return [path, *(f"{drop_ins}/{name}" for name in named[:MAX_FILES])]


def read_policy(path: str, disk: Files) -> Policy:
    """Return the allowlist of a file.

    Raises:
        SettingsFaults: it cannot be read, or every fault in it.
    """
    # Half a megabyte of schema, and link, which reads the settings too, reads no policy.
    from edgewarden.settings.policy import MAX_POLICY_BYTES, load_policy

    try:
        source = _text(path, MAX_POLICY_BYTES, disk)
    except SettingsFaults as unreadable:
        raise SettingsFaults(unreadable.faults, "policy") from unreadable.__cause__
    return load_policy(source)


def _text(path: str, max_bytes: int, disk: Files) -> SourceFile:
    try:
        data = disk.fetch(path, max_bytes)
    except HardwareFault as fault:
        code = NOT_THERE if isinstance(fault.__cause__, FileNotFoundError) else UNREADABLE
        raise SettingsFaults([Fault(path, 0, "", fault.text, code)]) from fault
    if len(data) > max_bytes:
        raise SettingsFaults([Fault(path, 0, "", f"more than {max_bytes} bytes", UNREADABLE)])
    try:
        return SourceFile(path, data.decode("utf-8"))
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        raise SettingsFaults([Fault(path, line, "", "not UTF-8", UNREADABLE)]) from None
