"""Where a stopped program lies decides whether it is judged, let go or killed unread."""

from __future__ import annotations

import pytest

from edgewarden.errors import OperatorFault
from edgewarden.kernel.mounts import Filesystem
from edgewarden.stop.places import JUDGE, REFUSE, SPARE, Places

HOST = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
30 21 8:17 / /mnt/apps rw - ext4 /dev/sdb1 rw
31 21 0:40 / /srv/host rw - fuse.sshfs host: rw
32 21 0:50 / /srv/stack rw - overlay ew rw,lowerdir=/opt:/mnt/apps/lower,upperdir=/u
33 21 0:51 / /srv/other rw - overlay ew rw,lowerdir=/opt:/gone
"""
FOREIGN = """\
70 1 8:1 / / rw - ext4 /dev/sda1 rw
71 70 8:17 / /opt rw - ext4 /dev/sdb1 rw
72 70 0:90 / /tmp rw - tmpfs tmpfs rw
73 70 0:91 / /mnt rw - fuse.evil evil rw
"""


class Mounted:
    """Where paths lie, for an overlay's layers."""

    def at(self, path: str) -> Filesystem:
        if path == "/gone":
            raise OperatorFault("out of sight")
        return Filesystem("8:17" if path.startswith("/mnt/apps") else "8:1", "ext4", ())


def places(numbers: dict[int, str]) -> Places:
    texts = {"self/mountinfo": HOST, "7/mountinfo": FOREIGN}
    texts |= {
        f"self/fdinfo/{fd}": f"pos:\t0\nmnt_id:\t{number}\n" for fd, number in numbers.items()
    }
    mounted: object = Mounted()
    watchable = frozenset(["ext4", "tmpfs", "overlay"])
    return Places(mounted, lambda name: texts.get(name, ""), {"8:17"}, watchable)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mount", "verdict"),
    [
        ("30", JUDGE),  # watched
        ("21", SPARE),  # the host's, not watched
        ("31", SPARE),  # the host's own network filesystem is the host's matter
        ("32", JUDGE),  # a layer is watched
        ("33", SPARE),  # none is
        ("70", SPARE),  # another mount of what the host knows
        ("71", JUDGE),  # another mount of what is watched
        ("72", JUDGE),  # a filesystem that only that namespace has
        ("73", REFUSE),  # and one whose server could keep us waiting
        ("99", JUDGE),  # in no table: a memfd
        ("", JUDGE),
    ],
)
def test_each_place_has_its_treatment(mount: str, verdict: int) -> None:
    assert places({5: mount}).look(7, 5) == verdict


def test_who_is_gone_is_judged_not_spared() -> None:
    """Its mount table cannot be read any more; what cannot be placed is never let go unjudged."""
    assert places({5: "70"}).look(8, 5) == JUDGE
