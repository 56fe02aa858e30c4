"""Numbers of the network table: users, ports, and spans of them that do not overlap (the kernel
refuses what does).

    merged([(1, 3), (2, 5)]) == [(1, 5)]; segments([(1, 9), (5, 5)]) == [(1, 4), (5, 5), (6, 9)]
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

Span = tuple[int, int]


def segments(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans such that each is wholly inside or outside of every given one."""
    cuts = sorted({low for low, _ in spans} | {high + 1 for _, high in spans})
    found = []
    for low, after in pairwise(cuts):
        if any(a <= low and after - 1 <= b for a, b in spans):
            found.append((low, after - 1))
    return found


def ports(values: Iterable[str]) -> list[Span]:
    spans = []
    for value in values:
        low, _, high = value.partition("-")
        spans.append((int(low), int(high or low)))
    return merged(spans)


def merged(spans: Iterable[Span]) -> list[Span]:
    """Without overlaps, which the kernel refuses."""
    found: list[Span] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def choice(values: Iterable[str]) -> str:
    found = list(dict.fromkeys(values))
    return found[0] if len(found) == 1 else f"{{ {', '.join(found)} }}"
