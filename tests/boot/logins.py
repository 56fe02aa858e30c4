"""Ways into a booted gateway, each the real thing: OpenSSH and dropbear over loopback, and a getty
on a terminal where login asks for name and password.

    with Logins(gateway) as logins:
        logins.ssh("edgewarden policy confirm").returncode
        logins.console("id -u") == (0, "0")

Neither daemon listens unless this asks for it, and then on 127.0.0.1 only: the guest's network is
the host's. ``without_logind`` takes pam_systemd away, as on a board where nobody installed it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import time
from collections.abc import Iterator

from hw.rigs.booted import Booted
from tests.boot.site import ports
from tests.waiting import wait_until

TECHNICIAN = "tech"
PASSWORD = "on the bench"  # of a guest that ends with the test
LIMIT_S = 90.0
TIOCGPTN, TIOCSPTLCK = 0x80045430, 0x40045431  # <asm-generic/ioctls.h>

DROPBEAR = """\
[Service]
ExecStart=/usr/sbin/dropbear -EFR -p 127.0.0.1:{port}
KillMode=process
[Install]
WantedBy=multi-user.target
"""
"""As Debian's own unit starts it: one unit for every login."""


class Logins:
    """A context manager: daemons up, keys in place; afterwards none of it is left."""

    def __init__(self, guest: Booted) -> None:
        self.guest = guest
        self.key = guest.folder / "key"
        self.openssh, self.dropbear = ports(2)
        self._terminals: list[int] = []

    def __enter__(self) -> Logins:
        guest = self.guest
        _host("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        if guest.attempt("id", TECHNICIAN).returncode:
            guest.run("useradd", "--create-home", "--shell", "/bin/bash", TECHNICIAN)
            rule = guest.path(f"/etc/sudoers.d/{TECHNICIAN}")
            rule.write_text(f"{TECHNICIAN} ALL=(ALL) NOPASSWD: ALL\n")
            rule.chmod(0o440)
            guest.run("sh", "-c", f"echo 'root:{PASSWORD}' | chpasswd")
        for user, home in (("root", "/root"), (TECHNICIAN, f"/home/{TECHNICIAN}")):
            folder = guest.path(f"{home}/.ssh")
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "authorized_keys").write_bytes(self.key.with_suffix(".pub").read_bytes())
            guest.run("chown", "-R", f"{user}:{user}", f"{home}/.ssh")
        guest.path("/etc/ssh/sshd_config.d/test.conf").write_text(
            f"ListenAddress 127.0.0.1:{self.openssh}\n"
        )
        guest.path("/etc/dropbear").mkdir()  # for the key that it makes itself (-R)
        guest.path("/etc/systemd/system/dropbear.service").write_text(
            DROPBEAR.format(port=self.dropbear)
        )
        guest.path("/etc/systemd/system/ssh.service").unlink()
        guest.run("systemctl", "enable", "dropbear")
        guest.run("systemctl", "daemon-reload")
        guest.run("systemctl", "start", "ssh", "dropbear")
        for port in (self.openssh, self.dropbear):
            wait_until(lambda port=port: self.ssh(":", port=port).returncode == 0, LIMIT_S)
        return self

    def __exit__(self, *fault: object) -> None:
        for terminal in self._terminals:
            os.close(terminal)
        if self.guest.pid:
            self.guest.attempt("systemctl", "stop", "ssh", "dropbear")

    def ssh(
        self, script: str, *, user: str = "root", port: int = 0, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a script over a connection of its own; 255 when nobody let us in."""
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
                 "BatchMode=yes", "ConnectTimeout=60")  # fmt: skip
        words = [word for option in quiet for word in ("-o", option)]
        line = ["ssh", "-F", "/dev/null", "-i", str(self.key), "-p", str(port or self.openssh)]
        return subprocess.run(
            [*line, *words, *options, f"{user}@127.0.0.1", script],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def over_dropbear(self, script: str) -> subprocess.CompletedProcess[str]:
        """As ``ssh``, through dropbear."""
        return self.ssh(script, port=self.dropbear)

    def console(self, script: str) -> tuple[int, str]:
        """Log in as root at a getty with name and password, run a script, log out.

        Returns:
            What the script ended with, and what was on the screen since it was typed.

        Raises:
            TimeoutError: no prompt came; the text holds the screen.
        """
        master, number = self._terminal()
        unit = f"container-getty@{number}.service"
        self._systemctl("start", "--no-block", unit)
        try:
            screen = Screen(master)
            screen.answer("login:", "root")
            screen.answer("Password:", PASSWORD)
            screen.answer("# ", f"{script}; echo ended=$?")
            told = screen.until(r"ended=(\d+)\s")
            screen.type("exit")
            return int(told[1]), told[0]
        finally:
            self._systemctl("stop", unit)

    def _systemctl(self, *words: str) -> None:
        """Starting nothing else: a policy may deny what Booted.run starts with (env)."""
        enter = ["nsenter", f"--target={self.guest.pid}", "--all", "--root", "--wd"]
        _host(*enter, "/usr/bin/systemctl", *words)

    def _terminal(self) -> tuple[int, int]:
        """A new terminal among the guest's own: our end, and its number."""
        path = f"/proc/{self.guest.pid}/root/dev/pts/ptmx"
        master = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self._terminals.append(master)
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        return master, struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, b"\0" * 4))[0]

    @contextlib.contextmanager
    def without_logind(self) -> Iterator[None]:
        """No session scope for who logs in meanwhile."""
        stack = self.guest.path("/etc/pam.d/common-session")
        before = stack.read_text()
        stack.write_text(re.sub(r"^.*pam_systemd\.so.*\n", "", before, flags=re.MULTILINE))
        try:
            yield
        finally:
            stack.write_text(before)


class Screen:
    """Our end of a terminal, read until what is waited for stands there."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._text = ""

    def answer(self, prompt: str, words: str) -> None:
        """Wait for a prompt, then type."""
        self.until(re.escape(prompt))
        self.type(words)

    def type(self, words: str) -> None:
        """Type a line."""
        os.write(self._master, words.encode() + b"\n")

    def until(self, pattern: str) -> re.Match[str]:
        """What came up to the end of the pattern, which is taken away.

        Raises:
            TimeoutError: not within LIMIT_S.
        """
        end = time.monotonic() + LIMIT_S
        while not (found := re.search(f"(?s:.*?){pattern}", self._text)):
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no {pattern!r} on the terminal: {self._text!r}")
            if select.select([self._master], [], [], left_s)[0]:
                with contextlib.suppress(OSError):  # EIO between two gettys
                    self._text += os.read(self._master, 4096).decode("utf-8", "replace")
        self._text = self._text[found.end() :]
        return found


def _host(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
