"""docs/json.md as shapes, and what differs between one of them and what was printed."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.rules.planting import ROOT

TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,), "int": (int,), "number": (int, float), "bool": (bool,), "null": (type(None),),
}  # fmt: skip


def shapes() -> dict[str, Any]:
    """Schema -> shape."""
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs/json.md").read_text(), re.DOTALL)
    found = [json.loads(block) for block in blocks]
    return {one["schema"]: {k: v for k, v in one.items() if k != "schema"} for one in found}


def differs(value: Any, shape: Any, at: str = "") -> list[str]:
    """Keys that are missing or not on the page, and values of another type."""
    if shape == "any":
        return []
    if isinstance(shape, str):
        kinds = [kind for word in shape.split("|") for kind in TYPES[word]]
        fits = type(value) in kinds
        return [] if fits else [f"{at} is {type(value).__name__}, not {shape}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{at} is no list"]
        return [d for n, item in enumerate(value) for d in differs(item, shape[0], f"{at}[{n}]")]
    if value is None and shape.get("(or null)"):
        return []
    if not isinstance(value, dict):
        return [f"{at} is no object"]
    if "*" in shape:
        return [d for k, v in value.items() for d in differs(v, shape["*"], f"{at}.{k}")]
    wanted = {k.rstrip("?"): (v, k.endswith("?")) for k, v in shape.items() if k != "(or null)"}
    found = [f"{at}.{key} is not on the page" for key in value if key not in wanted]
    for key, (inner, optional) in wanted.items():
        if key in value:
            found += differs(value[key], inner, f"{at}.{key}")
        elif not optional:
            found.append(f"{at}.{key} is missing")
    return found


def printed(text: str) -> list[str]:
    """What differs between the page and an object that a command printed."""
    body = json.loads(text)
    schema = body.pop("schema")
    return differs(body, shapes()[schema], schema)
