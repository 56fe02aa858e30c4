"""A UART bit by bit: what a receiver at one rate makes of characters sent at another.

Pseudo-terminals carry no rate, so what a wrong one would give is made here: a start bit, data bits
from the lowest, a parity bit where asked, a stop bit; the receiver takes the middle of each of its
own bits and goes on behind the stop bit whatever it was, as a 16550 does.
"""

from __future__ import annotations


def heard(data: bytes, sent: int, at: int, *, inverted: bool = False) -> bytes:
    """The bytes that a receiver at rate ``at`` gets from a line that is busy at ``sent``."""
    return received(line(data), sent, at, inverted=inverted)


def line(data: bytes, bits: int = 8, parity: str = "none") -> list[int]:
    """The levels of a line, one for each bit, idle at its ends."""
    levels = [1] * 20
    for byte in data:
        character = [byte >> i & 1 for i in range(bits)]
        if parity != "none":
            character.append(sum(character) & 1 ^ (parity == "odd"))
        levels += [0, *character, 1]
    return levels + [1] * 20


def received(levels: list[int], sent: int, at: int, *, inverted: bool = False) -> bytes:
    """Eight data bits, no parity, one stop bit."""
    if inverted:
        levels = [1 - level for level in levels]
    step, out, place = sent / at, bytearray(), 0.0
    level = lambda where: levels[int(where)] if where < len(levels) else 1  # noqa: E731
    while place < len(levels):
        if level(place) == 1:
            place += step / 16
            continue
        bits = [level(place + step * (i + 1.5)) for i in range(8)]
        out.append(sum(bit << i for i, bit in enumerate(bits)))
        place += step * 9.5
        while place < len(levels) and level(place) == 0:  # a break: wait for the line to rest
            place += step / 16
    return bytes(out)
