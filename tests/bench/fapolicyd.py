"""Debian's fapolicyd beside gate, on one filesystem of the bench's own and nowhere else.

It watches filesystem types, so the image is the only ext2 that it sees. It runs in a mount
namespace of its own, with its own etc, lib and run, below ``timeout -s KILL``. Its
mark is one of the filesystem (allow_filesystem_mark), as gate's is; before anything is measured
/proc/PID/fdinfo must show that mark alone. Rules: what is trusted may be executed, nothing else;
trust is one file with the digest of the program, integrity=none, as Debian ships it. It asks the
kernel for every opening besides every exec, as its rules need it: an exec is two events there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tests.bench.place import CannotMeasure, Place, await_

LIFE_S = 120
CONFIG = """permissive = 0
nice_val = 14
q_size = 640
uid = root
gid = root
do_stat_report = 0
detailed_report = 0
db_max_size = 10
subj_cache_size = 1549
obj_cache_size = 8191
watch_fs = ext2
trust = file
integrity = none
syslog_format = rule,dec,perm,pid,exe,:,path
rpm_sha256_only = 0
allow_filesystem_mark = 1
"""
RULES = "allow perm=execute all : trust=1\ndeny perm=execute all : all\nallow perm=open all : all\n"
START = """
set -e
for other in "$4" "$5" "$6" "$7"; do umount "$other"; done
mount --bind "$1/etc" /etc/fapolicyd
mount --bind "$1/lib" /var/lib/fapolicyd
mount --bind "$1/run" /run
echo $$ > "$1/run/ready"
exec timeout -s KILL "$3" fapolicyd --debug-deny
"""


def start(place: Place, watched: Path, others: list[Path]) -> None:
    """Stand it up on the ext2 filesystem ``watched``; ``others`` are not to be seen by it.

    Raises:
        CannotMeasure: it is not there, does not come up, or would watch more than it should.
    """
    if shutil.which("fapolicyd", path="/usr/sbin:/usr/bin") is None:
        raise CannotMeasure("fapolicyd is not installed")
    home = place.folder / "fapolicyd"
    for name in ("etc/trust.d", "etc/rules.d", "lib", "run/fapolicyd"):
        (home / name).mkdir(parents=True)
    program = watched / "listed"
    trust = f"{program} {program.stat().st_size} {hashlib.sha256(program.read_bytes()).hexdigest()}"
    (home / "etc" / "fapolicyd.trust").write_text(trust + "\n")
    (home / "etc" / "fapolicyd.conf").write_text(CONFIG)
    (home / "etc" / "compiled.rules").write_text(RULES)
    (home / "etc" / "rules.d" / "10-bench.rules").write_text(RULES)
    wrapper = place.start(
        "unshare", "-m", "sh", "-c", START, "sh", home, watched, str(LIFE_S), *others,
        name="fapolicyd",
    )  # fmt: skip

    def marks() -> list[str]:
        found = []
        for pid in _below(wrapper.pid):
            for info in Path(f"/proc/{pid}/fdinfo").glob("*"):
                lines = info.read_text().splitlines()
                found += [one for one in lines if one.startswith("fanotify ") and "dev" in one]
        return found

    await_("fapolicyd's mark", lambda: bool(marks()) or wrapper.poll() is not None, 20)
    device = watched.stat().st_dev
    own = f"{os.major(device) << 20 | os.minor(device):x}"
    if wrapper.poll() is not None or any(f"sdev:{own} " not in line for line in marks()):
        raise CannotMeasure(f"fapolicyd marks {marks()}: {place.log('fapolicyd')[-300:]}")


def _below(pid: int) -> list[int]:
    """A process and what it started."""
    found = [pid]
    for one in found:
        try:
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        except OSError:
            continue
        found += map(int, children)
    return found
