r"""Where systemd puts a unit's control group unless it is told otherwise.

What this decides, after systemd.slice(5), systemd.unit(5) and systemd's own cg_escape():

- ``a-b.slice`` lies in ``a.slice``, and so on;
- an instance ``n@i`` lies in ``system-n.slice``, where a dash or backslash of ``n`` is written as
  ``\x2d`` or ``\x5c``: it would mean another slice (measured: ``openvpn-client@a`` lies in
  ``system-openvpn\x2dclient.slice``);
- the rest lies in ``system.slice``;
- a name that the kernel could take for a file of a control group's gets a ``_`` in front.

What it leaves to others: ``Slice=`` and other names of a unit, which are files of this machine
(probe/units.py).

    control_group("cron.service", "") == "system.slice/cron.service"
"""

from __future__ import annotations

import string

from edgewarden.wire.units import group_name

_PLAIN = frozenset(string.ascii_letters + string.digits + ":_.")


def unit_path(unit: str) -> str:
    """The control group of a unit that has no ``Slice=``; a path that begins with / as it is."""
    return unit[1:] if unit.startswith("/") else control_group(unit, "")


def control_group(unit: str, slice_: str) -> str:
    """The control group of a unit from the root, without a leading slash.

    Args:
        unit: its own full name, no other name of it.
        slice_: its ``Slice=``, or "".
    """
    name, _, kind = unit.rpartition(".")
    if kind == "slice":
        return _slices(name)
    prefix, at, _ = name.partition("@")
    if not slice_:
        slice_ = f"system-{escaped(prefix)}.slice" if at else "system.slice"
    above = "" if slice_ == "-.slice" else f"{_slices(slice_.removesuffix('.slice'))}/"
    return above + group_name(unit)


def escaped(text: str) -> str:
    r"""As systemd-escape(1) does it for a part of a slice's name."""
    return "".join(c if c in _PLAIN else f"\\x{ord(c):02x}" for c in text)


def _slices(name: str) -> str:
    parts = name.split("-")
    steps = ("-".join(parts[: i + 1]) + ".slice" for i in range(len(parts)))
    return "/".join(group_name(step) for step in steps)
