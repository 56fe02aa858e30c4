"""Letting in and keeping out: what the kernel does not show is not done, and what was is put
back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.act.usb import Before, authorize, close_defaults, restore
from edgewarden.errors import HardwareFault, WireRefusal
from edgewarden.wire.lean import seal
from hw.rigs.usbtree import UsbTree
from tests.sense.usbtrees import view

HUBS = ["usb1", "usb2"]


class OldKernel:
    """A sysfs that takes 2 for "everything", as kernels before 5.2 do, or refuses to be written."""

    def __init__(self, refuses: int = 0, deaf: bool = False) -> None:
        self.sys_fd = -1
        self.files = {"usb1": "1", "usb2": "1", "1-1.4": "1"}
        self.refuses = refuses
        self.deaf = deaf
        self._open: dict[int, str] = {}
        self._pipe = -1

    def directory(self, name: str) -> int:
        if name.rpartition("/")[2] not in self.files:
            raise FileNotFoundError(name)
        fd = os.open("/", os.O_RDONLY)
        self._open[fd] = name.rpartition("/")[2]
        return fd

    def open(self, directory: int, name: str, flags: int) -> int:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        self._pipe, its = os.pipe()
        return its

    def text(self, directory: int, name: str) -> str:
        thing = self._open[directory]
        if self._pipe >= 0:  # what was written since the last question
            written = os.read(self._pipe, 16).decode()
            os.close(self._pipe)
            self._pipe = -1
            if not self.deaf:
                self.files[thing] = {"2": "1"}.get(written, written)
        return self.files[thing]


def test_a_kernel_that_takes_2_for_everything_gets_0() -> None:
    tree, before = OldKernel(), Before("boot")
    assert close_defaults(tree, HUBS, before, lambda: None) == 2
    assert (tree.files["usb1"], tree.files["usb2"]) == ("0", "0")
    assert before.defaults == {"usb1": "1", "usb2": "1"}


def test_what_the_kernel_does_not_show_is_not_done() -> None:
    tree = OldKernel(deaf=True)
    fd = tree.directory("x/1-1.4")
    assert not authorize(tree, fd, False)
    os.close(fd)
    assert close_defaults(tree, HUBS, Before("boot"), lambda: None) == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_refusal_is_told(number: int) -> None:
    tree = OldKernel(refuses=number)
    with pytest.raises(HardwareFault) as caught:
        close_defaults(tree, HUBS, Before("boot"), lambda: None)
    assert (caught.value.code, caught.value.fields["errno"]) == ("EW-USB-002", number)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESHUTDOWN])
def test_a_device_that_went_away_is_no_fault(number: int) -> None:
    tree = OldKernel(refuses=number)
    fd = tree.directory("x/1-1.4")
    assert not authorize(tree, fd, True)
    os.close(fd)


def test_a_default_that_was_tighter_is_not_loosened(tmp_path: Path) -> None:
    tree = UsbTree(tmp_path)
    (tree.sys / "bus/usb/devices/usb1/authorized_default").write_text("0\n")
    with view(tree) as made:
        assert close_defaults(made, HUBS, Before("boot"), lambda: None) == 2
    assert tree.defaults() == {"usb1": "0", "usb2": "2"}


def test_another_plugging_in_at_the_same_port_is_left_alone(tmp_path: Path) -> None:
    tree = UsbTree(tmp_path)
    tree.plug("keyboard", "1-1.4")
    attribute = tree.sys / "bus/usb/devices/1-1.4/authorized"
    attribute.write_text("0\n")
    before = Before("boot")
    before.devices["1-1.4", 2] = "1"  # it was number 2; this one is number 3
    before.devices["1-1.9", 4] = "1"
    with view(tree) as made:
        assert restore(made, before) == []
    assert attribute.read_text() == "0\n"
    assert before.is_empty


def test_what_cannot_be_put_back_stays_remembered() -> None:
    before = Before("boot")
    before.defaults["usb1"] = "0"
    failed = restore(OldKernel(refuses=errno.EROFS), before)
    assert len(failed) == 1
    assert before.defaults == {"usb1": "0"}


PORTS = st.sampled_from(["1-1", "1-1.4", "2-3.1.7"])


@given(
    st.dictionaries(st.sampled_from(["usb1", "usb12"]), st.sampled_from("012")),
    st.dictionaries(st.tuples(PORTS, st.integers(0, 999)), st.sampled_from("01")),
    st.sets(st.sampled_from(["1-1:1.0", "2-3.1.7:1.2"])),
)
def test_the_memory_is_read_as_it_was_written(
    defaults: dict[str, str], devices: dict[tuple[str, int], str], interfaces: set[str]
) -> None:
    before = Before("boot")
    before.defaults, before.devices, before.interfaces = defaults, devices, interfaces
    found = Before.load(before.dump(), "boot")
    assert (found.defaults, found.devices, found.interfaces) == (defaults, devices, interfaces)
    assert Before.load(before.dump(), "another").is_empty


@pytest.mark.parametrize(
    "line",
    ["default usb1 3", "default ../x 1", "device usb1 3 1", "device 1-1 x 1", "interface ..", "x"],
)
def test_memory_that_says_something_else_is_refused(line: str) -> None:
    with pytest.raises(WireRefusal):
        Before.load(seal(b"EWUSBST1", f"boot b\n{line}\n".encode()), "b")
