"""The file of images: what it holds and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.exec import digest
from edgewarden.wire.images import (
    KEY_BYTES,
    MAGIC,
    MAX_IMAGES,
    MAX_IMAGES_BYTES,
    compile_images,
    load_images,
)
from edgewarden.wire.lean import seal

KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
DIGESTS = st.binary(min_size=32, max_size=32)
ROW = bytes(KEY_BYTES) + bytes(32)


def test_its_key_is_the_caches() -> None:
    assert digest.KEY_BYTES == KEY_BYTES


@given(st.dictionaries(KEYS, DIGESTS, max_size=20))
def test_what_was_written_is_what_is_read(images: dict[bytes, bytes]) -> None:
    assert load_images(compile_images(images)) == images


def test_it_is_bounded() -> None:
    images = {i.to_bytes(KEY_BYTES, "big"): bytes(32) for i in range(MAX_IMAGES + 3)}
    assert len(load_images(compile_images(images))) == MAX_IMAGES


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (bytes(MAX_IMAGES_BYTES + 1), "too_long"),
        (b"", "too_short"),
        (seal(b"EWIMAGE0", ROW), "bad_magic"),
        (seal(MAGIC, ROW)[:-1] + b"x", "bad_stamp"),
        (seal(MAGIC, ROW[:-1]), "bad_length"),
        (seal(MAGIC, (b"\2" * KEY_BYTES + bytes(32)) * 2), "bad_order"),
    ],
)
def test_what_is_no_such_file_is_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(WireRefusal) as caught:
        load_images(data)
    assert caught.value.name == name
