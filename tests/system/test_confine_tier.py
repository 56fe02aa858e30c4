"""Tier T1 in gate: a proof of `edgewarden confine verify` counts below what the kernel denies, on
the boot it was made on, and is never more than that (rows K1 and K3).

And what the kernel really does with the sysctl that confinement sets (row A6), in a process
namespace of the test's own, to which the value belongs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.wire.gate_files import CONFINED_NAME, ExecTier, climb
from tests.system.exec_world import World, private_tmpfs, world
from tests.waiting import wait_until

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
REASON = "2 of 2 managed service(s) confined by path"
PROOF = ExecTier("T1", "none", REASON, BOOT_ID)


@pytest.fixture
def small() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        yield made


def confined(world: World, proof: ExecTier) -> None:
    path = world.state / "policy" / CONFINED_NAME
    path.write_bytes(proof.dump())
    path.chmod(0o644)


@pytest.mark.needs("root", "fanotify-permission")
@pytest.mark.parametrize("masked", ["no-permission", "no-fanotify"])
def test_k1_where_the_kernel_cannot_deny_gate_stands_on_the_proof(
    small: World, masked: str
) -> None:
    small.tier("T0", "EINVAL")
    small.policy("observe")
    confined(small, PROOF)
    small.start_gate(masked=masked)
    assert small.status().tier == "T1"
    answer = small.set_mode("enforce")
    assert (answer.ok, answer.name) == (False, "not_possible"), "T1 blocks no program of others"


@pytest.mark.needs("root", "fanotify-permission")
@pytest.mark.parametrize(
    ("canary", "proof", "tier"),
    [
        ("T3", PROOF, "T3"),
        ("T0", ExecTier("T1", "none", REASON, "0000"), "T0"),
        ("T0", ExecTier("T0", "none", "a canary ran", BOOT_ID), "T0"),
    ],
    ids=["the kernel denies itself", "of another boot", "a canary that was not refused"],
)
def test_k3_a_label_without_a_refusal_in_this_run_is_not_worn(
    small: World, canary: str, proof: ExecTier, tier: str
) -> None:
    small.tier(canary, "" if canary == "T3" else "EINVAL")
    small.policy("observe")
    confined(small, proof)
    small.start_gate()
    assert small.status().tier == tier


@pytest.mark.needs("root", "fanotify-permission")
def test_k3_a_proof_that_comes_or_goes_counts_from_the_reload(small: World) -> None:
    small.tier("T0", "EINVAL")
    small.policy("observe")
    small.start_gate()
    assert small.status().tier == "T0"
    confined(small, PROOF)
    small.ask("reload")
    wait_until(lambda: small.status().tier == "T1")
    (small.state / "policy" / CONFINED_NAME).unlink()
    small.ask("reload")
    wait_until(lambda: small.status().tier == "T0")


@pytest.mark.needs("root", "fanotify-permission")
def test_k3_a_proof_that_others_may_write_is_none(small: World) -> None:
    small.tier("T0", "EINVAL")
    small.policy("observe")
    confined(small, PROOF)
    (small.state / "policy" / CONFINED_NAME).chmod(0o666)
    small.start_gate()
    assert small.status().tier == "T0"


def test_the_ladder_is_t3_t2_t1_t0() -> None:
    for canary in ("T3", "T2"):
        assert climb(ExecTier(canary, "none", "", BOOT_ID), PROOF).tier == canary
    seen = ExecTier("T0", "fanotify-notify", "no permission events", BOOT_ID)
    climbed = climb(seen, PROOF)
    assert (climbed.tier, climbed.source) == ("T1", "fanotify-notify")
    assert climbed.reason == f"{REASON}; no permission events"
    assert climb(seen, None) == seen


# --- what the kernel does -------------------------------------------------------------------------

MEMFD = """
import os, pathlib, sys
pathlib.Path("/proc/sys/vm/memfd_noexec").write_text(sys.argv[1])
for flags in (0x10, 0):
    try:
        fd = os.memfd_create("x", flags)
    except OSError as fault:
        print(flags, "refused", fault.errno)
        continue
    os.write(fd, open("/bin/true", "rb").read())
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(f"/proc/self/fd/{fd}", ["x"])
        except OSError as fault:
            os._exit(fault.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(flags, "ran" if code == 0 else f"errno {code}")
"""


@pytest.mark.needs("root", "memfd-noexec")
@pytest.mark.parametrize(
    ("value", "asked_for", "plain"),
    [("0", "16 ran", "0 ran"), ("1", "16 ran", "0 errno 13"), ("2", "16 refused 13", "0 errno 13")],
)
def test_a6_memory_files_run_nothing_at_2_and_who_asks_runs_at_1(
    value: str, asked_for: str, plain: str
) -> None:
    before = Path("/proc/sys/vm/memfd_noexec").read_text()
    line = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", MEMFD, value]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines() == [asked_for, plain]
    assert Path("/proc/sys/vm/memfd_noexec").read_text() == before, "the namespace's own value"
