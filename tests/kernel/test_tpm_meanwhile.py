"""Between the halves of a command: what is taken, how the answer is waited for, what a failure of
the work beside it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgewarden.kernel import tpm_meanwhile
from edgewarden.kernel.tpm_meanwhile import finished

LATER = 0x000A0009  # TSS2_TCTI_RC_TRY_AGAIN
SUCCESS, REFUSED = 0, 0x0984


class Command:
    """Answers what was asked for so many questions later; notes how each was put."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.put, self.timeout = list(answers), list[int](), -1

    def finish(self) -> int:
        self.put.append(self.timeout)
        return self.answers.pop(0)

    def wait(self, timeout: int) -> None:
        self.timeout = timeout

    def finished(self, pieces: Iterator[object]) -> int:
        return finished(self.finish, self.wait, pieces)


@pytest.mark.parametrize("end", [SUCCESS, REFUSED, 0x000A000A, 9], ids=hex)
def test_pieces_are_taken_until_the_answer_is_there(end: int) -> None:
    command, work = Command(LATER, LATER, end), iter(range(9))
    assert command.finished(work) == end
    assert next(work) == 2, "one for each time that it was too early"
    assert command.put == [0, 0, 0]
    assert command.timeout == -1, "the next command waits, as any does"


def test_without_pieces_left_the_answer_is_waited_for() -> None:
    command = Command(LATER, LATER, LATER, SUCCESS)
    assert command.finished(iter([1])) == SUCCESS
    assert command.put == [0, 0, -1, -1], 'also where the TPM had said "later" itself'


def test_a_piece_that_fails_does_so_after_the_answer() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("work")

    command = Command(LATER, LATER, LATER, SUCCESS)
    with pytest.raises(KeyError):
        command.finished(failing())
    assert command.answers == [], "no command is left open"
    assert command.put == [0, 0, -1, -1]
    assert command.timeout == -1


def test_a_binding_that_keeps_its_library_elsewhere_is_asked_in_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tpm_meanwhile, "_BINDING", "edgewarden.nowhere")
    assert tpm_meanwhile.library(object()) is None
    monkeypatch.setattr(tpm_meanwhile, "_BINDING", "edgewarden.errors")
    assert tpm_meanwhile.library(object()) is None, "a module without the library"
