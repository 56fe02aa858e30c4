"""A storm of forks, as fast as this machine makes them.

    python storm.py SECONDS PROCESSES

Compiles a few lines of C where there is a compiler (a user's machine needs none: without it, a loop
of posix_spawn). Prints one line when it is over: how many processes it has made, itself included.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9;
}
int main(int argc, char **argv) {
    double end = now() + atof(argv[1]);
    int workers = atoi(argv[2]);
    int pipes[2];
    if (pipe(pipes)) return 1;
    for (int i = 0; i < workers; i++) {
        if (fork() == 0) {
            long made = 0;
            while (now() < end) {
                pid_t child = vfork();
                if (child == 0) _exit(0);
                if (child > 0) { made++; waitpid(child, 0, 0); }
            }
            write(pipes[1], &made, sizeof made);
            _exit(0);
        }
    }
    long total = workers, made;
    for (int i = 0; i < workers; i++) if (read(pipes[0], &made, sizeof made) > 0) total += made;
    while (wait(0) > 0) {}
    printf("%ld\n", total);
    return 0;
}
"""


def compiled(folder: Path) -> Path | None:
    """The C loop, or None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, program = folder / "storm.c", folder / "storm"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-O2", "-o", program, source], check=True, capture_output=True)
    return program


def slow_storm(seconds: float) -> int:
    end, made = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        child = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(child, 0)
        made += 1
    return made


def storm(seconds: float, workers: int = 2) -> subprocess.Popen[str]:
    """Start one, in a process group of its own; its stdout says how many. SIGTERM to the group ends
    it before its time."""
    return subprocess.Popen(
        [sys.executable, __file__, str(seconds), str(workers)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # which takes the folder away
    with tempfile.TemporaryDirectory(prefix="ew-storm-") as where:
        program = compiled(Path(where))
        if program is None:
            print(slow_storm(float(sys.argv[1])))
        else:
            done = subprocess.run([program, *sys.argv[1:3]], check=True, capture_output=True)
            print(int(done.stdout))
