"""The console: everything from outside escaped, nothing runs, nobody else reaches it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer

from edgewarden.errors import OperatorFault
from edgewarden.wire.facts import Reading
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca.settings import Endpoint
from edgewarden_fleet.console import page, server
from edgewarden_fleet.store import views
from tests.fleet.makers import NOW, Board, Desk
from tests.fleet.test_folder import WANTED

NASTY = "<script>alert('x')</script>\"&"


def fill(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(RecordClass.ALARM))
    desk.record(board.introduce(RecordClass.BULK))
    desk.record(board.denied(bytes(32), path=NASTY))
    desk.record(board.batch(Reading(NASTY, NASTY, NASTY, NASTY, board.boot_ns)))
    desk.take(board.topic("r", "alarm"), b"\xd2garbage")
    nonce = desk.challenge(board.device).nonce
    desk.take(board.topic("e", "evidence"), board.evidence(nonce, exec_mode=NASTY, version=NASTY))


def rendered(desk: Desk) -> str:
    whole = [
        views.gateway(desk.db, row[0], NOW) for row in desk.db.execute("SELECT device FROM device")
    ]
    return page.page(NASTY, [g for g in whole if g is not None], NOW_TEXT)


NOW_TEXT = views.iso(NOW) or ""


def test_nothing_from_outside_is_markup(desk: Desk, board: Board) -> None:
    fill(desk, board)
    text = rendered(desk)
    assert "<script" not in text
    assert "alert(&#x27;x&#x27;)" in text
    without_style = text.replace(f"<style>{page.STYLE}</style>", "")
    tags = set(re.findall(r"<\s*([a-zA-Z0-9]+)", without_style))
    assert tags <= {
        "html", "head", "meta", "title", "body", "header", "h1", "h2", "h3", "p", "main", "article",
        "small", "span", "div", "section", "table", "tr", "th", "td", "code", "b", "time", "footer",
    }  # fmt: skip
    for attributes in re.findall(r"<[a-z0-9]+ ([^>]*)>", without_style):
        assert re.fullmatch(r'(?:[a-z-]+="[^"<>]*"\s*|class=wide\s*|lang="en")*', attributes)


def test_an_empty_fleet_says_what_to_do(desk: Desk) -> None:
    assert "token new --device" in rendered(desk)


def test_the_policy_allows_one_style_sheet_and_nothing_else() -> None:
    digest = base64.b64encode(hashlib.sha256(page.STYLE.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.CSP
    assert "default-src 'none'" in page.CSP
    assert "script-src" not in page.CSP


@asynccontextmanager
async def console(desk: Desk) -> AsyncIterator[TestClient]:
    settings = WANTED
    app = server.application(desk.db, settings, lambda: NOW)
    async with TestClient(TestServer(app)) as client:
        yield client


def ask(
    desk: Desk, path: str, host: str = "127.0.0.1:8880", method: str = "GET"
) -> tuple[int, str]:
    async def one() -> tuple[int, str]:
        async with console(desk) as client:
            answer = await client.request(method, path, headers={"Host": host})
            if answer.status == 200:
                assert answer.headers["Content-Security-Policy"] == page.CSP
                assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.text()

    return asyncio.run(one())


def test_page_and_json(desk: Desk, board: Board) -> None:
    fill(desk, board)
    assert ask(desk, "/")[0] == 200
    status, text = ask(desk, "/v1/gateways")
    assert status == 200
    assert '"edgewarden-fleet.gateways/1"' in text
    assert ask(desk, "/v1/gateways/gw-demo")[0] == 200
    assert ask(desk, "/v1/gateways/absent")[0] == 404
    assert ask(desk, "/other")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8880", "127.0.0.1:1", ""])
def test_a_rebound_name_gets_nothing(desk: Desk, host: str) -> None:
    status, text = ask(desk, "/", host=host)
    assert status in (400, 421)
    assert "gateway" not in text


def test_it_only_reads(desk: Desk) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert ask(desk, "/", method=method)[0] == 405


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "fleet.example", "::"])
def test_it_refuses_to_listen_for_others(desk: Desk, host: str) -> None:
    from dataclasses import replace

    with pytest.raises(OperatorFault) as refused:
        server.application(desk.db, replace(WANTED, console=Endpoint(host, 8880)), lambda: NOW)
    assert refused.value.code == "EW-SET-026"
