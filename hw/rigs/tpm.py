"""A TPM 2.0 in software, with what stands around a real one: EK certificate, resource manager, bus.

    swtpm ◀── swtpm_setup: EK and its certificate from a CA of the rig's own
      ▲  127.0.0.1, two free ports
    tpm2-abrmd ── dbus-daemon, private ◀── clients: ``tcti`` and ``environment``

* Folders are absolute: swtpm with a relative one enters failure mode (0x101). Ports are free ones:
  2321 is where a client without a TCTI looks, and might find somebody else's simulator.
* swtpm serves one client, a TPM holds three keys: the resource manager is what a board has in
  /dev/tpmrm0, and every client but the first needs it.
* One bus for all TPMs of a process (``Bus``): GLib keeps one connection per process, and ends the
  process when that bus goes while the connection is open. Close clients first.
* The resource manager tells nothing: asked to tell, it writes 100 lines a command and takes twice
  as long, and every figure taken here was of that.
* Everything is a child of ours, dies with us (PR_SET_PDEATHSIG) and is ended by its pid.

    with Bus(folder / "bus") as bus, SoftTpm(folder / "tpm", bus) as tpm:
        ... tpm.tcti, bus.environment ... tpm.reboot() ...

Two TPMs of one ``Maker`` have certificates from one CA, as two boards of one vendor have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from hw.rigs.ports import free_port

START_S = 60.0
POLL_S = 0.02
_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

_BUS_CONF = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
  </policy>
</busconfig>
"""


def program(name: str) -> str:
    """Full path of a program.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise FileNotFoundError(name)
    return found


class Child:
    """A program that runs until it is told to end, and at the latest until we do."""

    def __init__(self, log: Path, *command: str, environment: dict[str, str] | None = None) -> None:
        self.log = log
        line = [program("setpriv"), "--pdeathsig", "KILL", program(command[0]), *command[1:]]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )

    @property
    def pid(self) -> int:
        """Its process number (setpriv becomes the program)."""
        return self._process.pid

    def check(self) -> None:
        """Raise RuntimeError with its last words when it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.log.name} ended: {self.log.read_text()[-2000:]}")

    def end(self, *, kill: bool = False) -> None:
        """TERM (or KILL) and wait; harmless when it has ended."""
        if self._process.poll() is None:
            self._process.kill() if kill else self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait(START_S)


class Bus:
    """A dbus-daemon of our own; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.address = f"unix:path={self.folder / 'bus.sock'}"
        self.environment = {"DBUS_SESSION_BUS_ADDRESS": self.address}
        self._child: Child | None = None

    def __enter__(self) -> Bus:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        conf, where = self.folder / "bus.conf", self.folder / "bus.sock"
        conf.write_text(_BUS_CONF.format(socket=where))
        line = ("dbus-daemon", f"--config-file={conf}", "--nofork", "--nopidfile", "--nosyslog")
        self._child = Child(self.folder / "bus.log", *line)
        _until(where.exists, self._child)
        return self

    def owner(self, name: str) -> int | None:
        """Number of the process that answers under a name; None while none does."""
        ask = (
            program("dbus-send"), f"--bus={self.address}", "--print-reply=literal",
            "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus",
            "org.freedesktop.DBus.GetConnectionUnixProcessID", f"string:{name}",
        )  # fmt: skip
        done = subprocess.run(ask, capture_output=True, text=True, timeout=START_S, check=False)
        return int(done.stdout.split()[-1]) if done.returncode == 0 else None

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._child is not None:
            self._child.end()


class Maker:
    """A vendor of TPMs: swtpm_localca's root and issuing CA in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.conf = self.folder / "setup.conf"
        local, options = self.folder / "localca.conf", self.folder / "localca.options"
        local.write_text(
            f"statedir = {self.folder}\nsigningkey = {self.folder}/signkey.pem\n"
            f"issuercert = {self.folder}/issuercert.pem\ncertserial = {self.folder}/certserial\n"
        )
        options.write_text(
            "--tpm-manufacturer id:00001014\n--tpm-model swtpm\n--tpm-version id:00010001\n"
            "--platform-manufacturer edgewarden\n--platform-version 1\n--platform-model rig\n"
        )
        self.conf.write_text(
            f"create_certs_tool = {program('swtpm_localca')}\n"
            f"create_certs_tool_config = {local}\ncreate_certs_tool_options = {options}\n"
            "active_pcr_banks = sha256\n"
        )

    @property
    def root(self) -> Path:
        """The root certificate, PEM, once a TPM was made."""
        return self.folder / "swtpm-localca-rootca-cert.pem"

    @property
    def issuer(self) -> Path:
        """The certificate between it and the EKs', PEM."""
        return self.folder / "issuercert.pem"

    def make(self, state: Path) -> None:
        """A new TPM's state: seeds, EK (RSA-2048), its certificate in NV."""
        state.mkdir(parents=True, exist_ok=True)
        line = [
            program("swtpm_setup"), "--tpm2", "--tpmstate", str(state), "--config", str(self.conf),
            "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--overwrite",
            "--logfile", str(state / "setup.log"),
        ]  # fmt: skip
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=5 * START_S, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"swtpm_setup: {done.stdout}{done.stderr}")


class SoftTpm:
    """One TPM behind its resource manager; a context manager.

    Args:
        folder: state (kept between two uses: the same TPM), logs.
        bus: where the resource manager answers.
        maker: who makes it when the folder is new; None for a maker of its own.
    """

    def __init__(self, folder: Path, bus: Bus, maker: Maker | None = None) -> None:
        self.folder = folder.absolute()
        self.bus = bus
        self.maker = maker or Maker(self.folder / "maker")
        self.state = self.folder / "state"
        self._name = f"com.intel.tss2.Tabrmd.n{os.getpid()}x{id(self)}"
        self._swtpm: Child | None = None
        self._manager: Child | None = None

    @property
    def tcti(self) -> str:
        """What a client names; with the bus's environment."""
        return f"tabrmd:bus_type=session,bus_name={self._name}"

    def __enter__(self) -> SoftTpm:
        if not self.state.exists():
            self.maker.make(self.state)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.stop()

    def start(self) -> None:
        """Power on: TPM2_Startup(CLEAR), resource manager ready."""
        port = free_port(neighbours=2)  # its control channel is behind it
        self._swtpm = Child(
            self.folder / "swtpm.log",
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}",
            "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
            "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
            "--flags", "not-need-init,startup-clear",
        )  # fmt: skip
        _until(lambda: _accepts(port + 1), self._swtpm)
        self._start_manager(port)

    def _start_manager(self, port: int) -> None:
        self._port = port
        manager = self._manager = Child(
            self.folder / "abrmd.log", "tpm2-abrmd", "--session", "--flush-all", "--allow-root",
            f"--dbus-name={self._name}", f"--tcti=swtpm:host=127.0.0.1,port={port}",
            environment={**os.environ, **self.bus.environment},
        )  # fmt: skip
        _until(lambda: self.bus.owner(self._name) == manager.pid, manager)

    def stop(self, *, kill: bool = False) -> None:
        """Power off."""
        for child in (self._manager, self._swtpm):
            if child is not None:
                child.end(kill=kill)
        self._manager = self._swtpm = None

    def reboot(self) -> None:
        """Off and on: resetCount goes up, PCRs are zero, clients have lost their connection."""
        self.stop()
        self.start()

    def restart_manager(self) -> None:
        """Kill the resource manager and start another: the TPM stays on."""
        assert self._manager is not None
        self._manager.end(kill=True)
        self._start_manager(self._port)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _until(ready: object, child: Child) -> None:
    """Wait for ready() while the child lives."""
    assert callable(ready)
    deadline_mono = time.monotonic() + START_S
    while not ready():
        child.check()
        if time.monotonic() > deadline_mono:
            raise TimeoutError(f"{child.log.name} is not ready: {child.log.read_text()[-2000:]}")
        time.sleep(POLL_S)
