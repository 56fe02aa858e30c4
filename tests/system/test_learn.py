"""This machine's own Debian, learned by the real command into a state folder of the test's own:
what it says of a sample of files is what the files and dpkg say."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgewarden.judge.exec_table import Table
from edgewarden.wire.baseline import Baseline
from tests.fakes.subject import NOBODY

ROOT = Path(__file__).parents[2]
SAMPLE = 150
pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("dpkg")]


def policy(folder: Path, *words: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "edgewarden", "policy", *words, "--json",
         "--settings", str(folder / "edgewarden.toml")],
        capture_output=True, text=True, timeout=600, check=False,
        env={"PYTHONPATH": str(ROOT / "agent"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    body: dict[str, object] = json.loads(done.stdout)
    return body


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn")
    (folder / "edgewarden.toml").write_text(
        f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n'
        f'[exec]\npolicy = "{folder}/policy.toml"\nlink_user = "no-such-user"\n'
    )
    began = time.monotonic()
    body = policy(folder, "learn")
    took_s = time.monotonic() - began
    print(
        f"{body['files']} of {body['looked_at']} files in {took_s:.1f} s, {body['unowned']} unowned"
    )
    (folder / "learned.json").write_text(json.dumps(body))
    return folder


def baseline(folder: Path) -> Baseline:
    return Baseline.load((folder / "state/policy/baseline").read_bytes())


def test_every_digest_of_a_sample_is_the_files(learned: Path) -> None:
    entries = baseline(learned).entries
    assert len(entries) > 1000
    for entry in random.Random(4).sample(entries, SAMPLE):
        assert hashlib.sha256(Path(entry.path).read_bytes()).digest() == entry.sha256, entry.path


def test_every_owner_of_a_sample_is_the_one_that_dpkg_names(learned: Path) -> None:
    """dpkg is asked by each of the names that the file has: it knows one of them."""
    known = baseline(learned)
    owned = [e for e in known.entries if e.package and not e.path.endswith(".pyc")]
    sample = random.Random(4).sample(owned, SAMPLE)
    names = {e.path: [e.path] for e in sample}
    for link, target in known.aliases.items():
        for path, own in names.items():
            if path.startswith(f"{target}/") and link.count("/") == 1:
                own.append(link + path[len(target) :])
    asked = [name for own in names.values() for name in own]
    done = subprocess.run(
        ["dpkg-query", "-S", *asked], capture_output=True, text=True, timeout=600, check=False
    )
    said: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("diversion by"):
            continue
        owners, _, path = line.rpartition(": ")
        said.setdefault(path, set()).update(o.partition(":")[0] for o in owners.split(", "))
    for entry in sample:
        if entry.path.startswith("/var/lib/dpkg/info/"):
            continue  # no package lists its own scripts
        owners = set().union(*(said.get(name, set()) for name in names[entry.path]))
        assert entry.package.partition(":")[0] in owners, entry.path


def test_a_whole_system_may_run_under_the_policy_to_start_from(learned: Path) -> None:
    table = Table.load((learned / "state/policy/exec.table").read_bytes())
    said = json.loads((learned / "learned.json").read_text())
    assert said["started_policy"] is True
    assert said["notes"] == []
    denied = []
    for entry in baseline(learned).entries:
        rule = table.decide(entry.sha256, NOBODY)
        if rule is None or not rule.allow:
            denied.append(entry.path)
    assert denied == []


def test_nothing_has_changed_since_and_nothing_is_read_twice(learned: Path) -> None:
    difference = policy(learned, "diff")
    assert difference["table"] == "same"
    again = policy(learned, "learn")
    assert isinstance(again["hashed"], int)
    assert again["hashed"] < 500, "other work on this machine changes a few files"


def test_our_own_interpreter_would_not_be_blocked(learned: Path) -> None:
    body = policy(learned, "would-block")
    denied = body["denied"]
    assert isinstance(denied, list)
    assert os.path.realpath(sys.executable) not in [one["path"] for one in denied]
