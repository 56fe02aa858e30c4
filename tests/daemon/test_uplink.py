"""[uplink] in the words of link/: the route, and the file with a proxy's credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.daemon.uplink import credentials, route
from edgewarden.errors import PeerUnavailable
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.source import SourceFile
from edgewarden.settings.uplink import Uplink
from edgewarden.settings.validate import load_settings


def settings(text: str) -> Uplink:
    return load_settings([SourceFile("edgewarden.toml", f"[uplink]\n{text}\n")]).uplink


def test_by_default_there_is_nothing_in_between() -> None:
    found = route(settings(""), bytes)
    assert (found.proxy, found.alpn, found.websocket) == (None, "", "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy.example:3128", ("http", "proxy.example", 3128)),
        ("socks5://10.0.0.1:1080", ("socks5", "10.0.0.1", 1080)),
        ("http://[2001:db8::1]:8080", ("http", "2001:db8::1", 8080)),
    ],
)
def test_a_proxy_is_read(url: str, expected: tuple[str, str, int]) -> None:
    proxy = route(settings(f'proxy = "{url}"'), bytes).proxy
    assert proxy is not None
    assert (proxy.kind, proxy.host, proxy.port) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@proxy.example:3128",
        "https://proxy.example:443",
        "http://proxy.example",
        "http://proxy.example:0",
        "http://proxy.example:3128/path",
        "ftp://x:1",
    ],
)
def test_another_proxy_is_refused_and_so_is_a_password_in_the_settings(url: str) -> None:
    with pytest.raises(SettingsFaults) as caught:
        settings(f'proxy = "{url}"')
    (fault,) = caught.value.faults
    assert "without a user" in str(fault)


def test_websocket_and_alpn() -> None:
    found = route(settings('transport = "websocket"\nwebsocket_path = "/ws"\nalpn = "mqtt"'), bytes)
    assert (found.websocket, found.alpn) == ("/ws", "mqtt")


def written(path: Path, text: bytes, mode: int = 0o640) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"gw:pa:ss", ("gw", "pa:ss")),
        (b"gw:pass\n", ("gw", "pass")),
        ("gw:pä ss\n".encode(), ("gw", "pä ss")),
    ],
)
def test_credentials_are_one_line(tmp_path: Path, text: bytes, expected: tuple[str, str]) -> None:
    assert credentials(written(tmp_path / "c", text)) == expected


def test_without_the_file_none_are_given(tmp_path: Path) -> None:
    assert credentials(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (b"gw:secret", 0o644, "can be read by everybody"),
        (b"nothing", 0o600, "is not one line"),
        (b":secret", 0o600, "is not one line"),
        (b"gw:se\ncret", 0o600, "is not one line"),
        (b"gw:se\rcret", 0o600, "is not one line"),
        (b"\xff\xfe:x", 0o600, "is not one line"),
        (b"gw:" + b"x" * 600, 0o600, "is not one line"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_named_and_not_told(
    tmp_path: Path, text: bytes, mode: int, words: str
) -> None:
    with pytest.raises(PeerUnavailable) as caught:
        credentials(written(tmp_path / "c", text, mode))
    assert words in caught.value.text
    assert "secret" not in str(caught.value)
