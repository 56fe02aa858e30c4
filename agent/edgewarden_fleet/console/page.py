"""The console's page: HTML as text, everything that came from outside escaped.

Pure: takes the values of store/views.py, returns one document. No script, no external asset; one
style sheet inside, allowed by its hash in the Content-Security-Policy. Narrow screens stack the
cards; a page reload is a meta refresh.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

REFRESH_S = 10

STYLE = """
:root{--ink:#1c2430;--soft:#5d6a7a;--line:#dfe4ea;--paper:#fff;--back:#f4f6f8;
--ok:#1a7f4b;--warn:#a66300;--bad:#b3261e;--idle:#5d6a7a}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
header{background:var(--paper);border-bottom:1px solid var(--line);padding:14px 20px}
header h1{margin:0;font-size:18px;font-weight:650}
header p{margin:2px 0 0;color:var(--soft);font-size:13px}
main{max-width:1080px;margin:0 auto;padding:18px 16px 40px}
article{background:var(--paper);border:1px solid var(--line);border-radius:10px;margin:0 0 18px;
overflow:hidden}
article>h2{margin:0;padding:14px 18px;font-size:17px;display:flex;gap:10px;align-items:center;
flex-wrap:wrap;border-bottom:1px solid var(--line)}
article>h2 small{font-weight:400;color:var(--soft);font-size:13px;margin-left:auto}
.why{margin:0;padding:9px 18px;color:var(--soft);border-bottom:1px solid var(--line);font-size:14px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1px;
background:var(--line)}
section{background:var(--paper);padding:14px 18px;min-width:0}
section.wide{grid-column:1/-1}
h3{margin:0 0 8px;font-size:12px;letter-spacing:.06em;text-transform:uppercase;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
th{font-weight:500;color:var(--soft);text-align:left;font-size:13px;padding:0 12px 3px 0;
white-space:nowrap}
td{padding:3px 12px 3px 0;vertical-align:top;border-top:1px solid #eef1f4;overflow-wrap:break-word}
time,b{white-space:nowrap}
code{font:13px ui-monospace,"DejaVu Sans Mono",Menlo,monospace;overflow-wrap:anywhere}
.tag{display:inline-block;border-radius:999px;padding:1px 9px;font-size:12.5px;font-weight:600;
color:#fff;background:var(--idle);white-space:nowrap}
.ok,.affirming{background:var(--ok)}.warning,.high,.medium{background:var(--warn)}
.critical,.contraindicated,.denied,.fork{background:var(--bad)}
.soft{color:var(--soft)}.none{background:var(--idle)}
p.empty{color:var(--soft);margin:0}
footer{color:var(--soft);font-size:13px;text-align:center;padding:0 16px 30px}
"""

CSP = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""Nothing runs, nothing is loaded, nothing frames the page."""

Row = Sequence[str]


def page(tenant: str, gateways: Sequence[Mapping[str, object]], at_utc: str) -> str:
    """Return the whole document; ``gateways`` are values of ``views.gateway``."""
    cards = "".join(_card(g) for g in gateways) or (
        '<article><p class="why">No gateway is enrolled yet. Make a token: '
        "<code>edgewarden-fleet token new --device ID</code></p></article>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        f"<title>edgewarden fleet: {_e(tenant)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>edgewarden fleet</h1><p>tenant {_e(tenant)} &middot; {len(gateways)} "
        f"gateway{'' if len(gateways) == 1 else 's'} &middot; as of {_e(at_utc)}</p></header>"
        f"<main>{cards}</main><footer>Read only. Every figure comes from reports whose signature, "
        "certificate and chain were checked; the rest is counted as refused.</footer></body></html>"
    )


def _card(g: Mapping[str, object]) -> str:
    reasons = g["reasons"]
    assert isinstance(reasons, list)
    why = "; ".join(str(r) for r in reasons) or "nothing to report"
    state = "on line" if g["online"] else "off line"
    return (
        f"<article><h2>{_e(g['device'])} {_tag(g['verdict'])}"
        f"<small>{state} &middot; last verified {_e(g['last_seen_utc'] or 'never')}</small></h2>"
        f'<p class="why">{_e(why)}</p><div class="grid">'
        + _attestation(g)
        + _identity(g)
        + _sensors(_map(g["sensors"]), "Sensors")
        + _chains(_map(g["chain"]))
        + _execs(_map(g["exec"]), _map(g["enforcement"]))
        + _findings(g["findings"])
        + _refusals(g["recent_refusals"])
        + _host(_map(g["host"]))
        + "</div></article>"
    )


def _attestation(g: Mapping[str, object]) -> str:
    a = _map(g["attestation"])
    reasons = _map(a["reasons"])
    age = a["age_s"]
    head = (
        f"<p>{_tag(a['result'])} grade {_e(a['grade'])} "
        f'<span class="soft">{_age(age)}{", out of date" if a["expired"] else ""}</span></p>'
    )
    rows = [
        (_e(name), _tag(tier), f"<span>{_e(reasons.get(name, ''))}</span>")
        for name, tier in _map(a["facets"]).items()
    ]
    return _section("Attestation", head + _table(("facet", "", ""), rows, "no evidence yet"))


def _identity(g: Mapping[str, object]) -> str:
    i = _map(g["identity"])
    enforcement, version = _map(g["enforcement"]), _map(g["attestation"])["version"]
    rows = [
        ("certificate", f"<code>{_e(i['serial'])}</code>"),
        ("valid until", _e(i["not_after_utc"])),
        ("enrolled", _e(i["enrolled_utc"])),
        ("agent", _e(version or "not stated")),
        (
            "exec control",
            f"{_e(enforcement['tier'] or 'not stated')} {_e(enforcement['mode'] or '')}",
        ),
        ("reports verified", _e(g["reports_verified"])),
        ("waiting for a key", _e(g["pending"])),
    ]
    quarantine = g["quarantine"]
    if quarantine is not None:
        q = _map(quarantine)
        said = f"{_e(q['kind'])} {_e(q['since_utc'])}"
        rows.insert(0, ("quarantine", f'<span class="tag critical">{said}</span> {_e(q["why"])}'))
    if i["revoked_utc"]:
        rows.insert(0, ("revoked", f'<span class="tag critical">{_e(i["revoked_utc"])}</span>'))
    return _section("Identity", _table(("", ""), rows, ""))


def _sensors(sensors: Mapping[str, object], title: str) -> str:
    rows = []
    for name, value in sensors.items():
        sensor = _map(value)
        channels = _map(sensor["channels"])
        for i, (channel, reading) in enumerate(channels.items()):
            r = _map(reading)
            rows.append(
                (
                    f"<b>{_e(name)}</b>" if i == 0 else "",
                    _e(channel),
                    _value(r),
                    _e(r["readings"]),
                    f'<span class="soft">{_clock(r["seen_utc"])}</span>',
                )
            )
    return _section(
        title, _table(("", "channel", "last", "readings", "at"), rows, "no readings"), wide=True
    )


def _value(reading: Mapping[str, object]) -> str:
    said = f"{_e(reading['value'])} {_e(reading['unit'])}"
    quality = reading.get("quality", "good")
    return said if quality == "good" else f'{said} <span class="tag critical">{_e(quality)}</span>'


def _host(host: Mapping[str, object]) -> str:
    if not host:
        return ""
    rows = []
    for channel, reading in _map(host["channels"]).items():
        r = _map(reading)
        rows.append((_e(channel), f"{_e(r['value'])} {_e(r['unit'])}", _clock(r["seen_utc"])))
    return _section("Host", _table(("channel", "last", "at"), rows, ""), wide=True)


def _chains(chain: Mapping[str, object]) -> str:
    rows = []
    for name, value in chain.items():
        c = _map(value)
        gaps = c["gaps"]
        assert isinstance(gaps, list)
        shown = [
            (f"{g['first']}" if g["first"] == g["last"] else f"{g['first']}-{g['last']}")
            + (f' <span class="soft">({_e(g["explained"])})</span>' if g["explained"] else "")
            for g in gaps[:8]
        ]
        if len(gaps) > 8:
            shown.append(f"and {len(gaps) - 8} more")
        refused = ", ".join(f"{_e(k)} {_e(v)}" for k, v in _map(c["refused"]).items())
        rows.append(
            (
                _e(name), _e(c["head"]), _e(c["records"]), ", ".join(shown) or "-",
                _e(c["reordered"]), _e(c["duplicates"]), refused or "-",
            )
        )  # fmt: skip
    head = ("class", "head", "verified", "dropped", "reordered", "sent twice", "refused")
    return _section("Chain", _table(head, rows, ""), wide=True)


def _execs(execs: Mapping[str, object], enforcement: Mapping[str, object]) -> str:
    verdicts = execs["denied_verdicts"]
    assert isinstance(verdicts, list)
    rows: list[Row] = [
        (
            _tag("denied"), f"<code>{_e(v['path'])}</code>", f"<code>{_e(v['digest'])}</code>",
            _e(v["rule"]), f"{_e(v['class'])} {_e(v['seq'])}", _clock(v["seen_utc"]),
        )
        for v in verdicts[:10]
    ]  # fmt: skip
    counts = ", ".join(
        f"{_e(execs[k])} {text}"
        for k, text in (
            ("denied", "denied"),
            ("would_deny", "would be denied"),
            ("learned", "learned"),
        )
    )
    head = f"<p>{counts}</p>"
    columns: Row = ("", "program", "SHA-256", "rule", "signed in", "at")
    if not any(row[3] for row in rows):  # most denials name no rule: nothing listed the program
        columns, rows = _without(3, columns), [_without(3, row) for row in rows]
    return _section("Programs", head + _table(columns, rows, "none was denied"), wide=True)


def _without(at: int, row: Row) -> tuple[str, ...]:
    return (*row[:at], *row[at + 1 :])


def _findings(findings: object) -> str:
    assert isinstance(findings, list)
    rows = [
        (
            f'<span class="tag {_e(f["severity"])}">{_e(f["severity"])}</span>',
            _e(f["kind"]), _e(f["text"]), _e(f["seen_utc"]),
        )
        for f in findings[:15]
    ]  # fmt: skip
    return _section("Findings", _table(("", "kind", "", "at"), rows, "none"), wide=True)


def _refusals(refusals: object) -> str:
    assert isinstance(refusals, list)
    if not refusals:
        return ""
    rows = [
        (
            _e(r["reason"]), _e(r["text"]), f"<code>{_e(r['topic'])}</code>", _e(r["bytes"]),
            _clock(r["received_utc"]),
        )
        for r in refusals[:10]
    ]  # fmt: skip
    columns = ("reason", "", "topic", "bytes", "at")
    return _section("Refused messages", _table(columns, rows, ""), wide=True)


def _section(title: str, body: str, wide: bool = False) -> str:
    return f"<section{' class=wide' if wide else ''}><h3>{_e(title)}</h3>{body}</section>"


def _table(head: Row, rows: Sequence[Row], empty: str) -> str:
    if not rows:
        return f'<p class="empty">{_e(empty)}</p>'
    top = "".join(f"<th>{_e(h)}</th>" for h in head) if any(head) else ""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>{f"<tr>{top}</tr>" if top else ""}{lines}</table></div>'


def _tag(word: object) -> str:
    return f'<span class="tag {_e(word)}">{_e(word)}</span>'


def _e(value: object) -> str:
    return escape(str(value), quote=True)


def _map(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


def _age(age_s: object) -> str:
    if not isinstance(age_s, (int, float)):
        return "never"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if age_s >= unit:
            return f"{age_s / unit:.0f} {name} ago"
    return f"{age_s:.0f} s ago"


def _clock(iso: object) -> str:
    """Time of day of an ISO time, the whole time as its tooltip."""
    text = str(iso or "")
    return f'<time title="{_e(text)}">{_e(text.removesuffix("Z")[-8:])}</time>'
