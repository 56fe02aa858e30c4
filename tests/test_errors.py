"""A fault that is kept holds on to nothing."""

from __future__ import annotations

from edgewarden.errors import HardwareFault


def fault(text: str) -> HardwareFault:
    return HardwareFault(text, code="EW-SPL-001", next_step="run `edgewarden doctor`")


def raised_from(cause: BaseException, kept: HardwareFault) -> HardwareFault:
    try:
        raise kept from cause
    except HardwareFault as caught:
        return caught


def tried_again(kept: HardwareFault) -> OSError:
    """What goes wrong while a fault that was kept is in hand."""
    try:
        try:
            raise kept
        except HardwareFault:
            raise OSError("again")  # noqa: B904 - the context is what this is about
    except OSError as later:
        return later


def test_neither_it_nor_what_led_to_it_keeps_a_frame() -> None:
    first = tried_again(fault("first"))
    kept = raised_from(first, fault("second"))
    assert kept.__traceback__ is not None
    assert kept.to_keep() is kept
    led = (kept, first, first.__context__)
    assert [one.__traceback__ for one in led if one is not None] == [None] * 3


def test_a_fault_that_led_to_itself_is_kept_as_well() -> None:
    """Raised again from what went wrong while it was in hand: cause and context make a ring."""
    kept = fault("kept")
    assert raised_from(tried_again(kept), kept).to_keep() is kept
    assert kept.__traceback__ is None
