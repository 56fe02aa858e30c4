"""A plan as rows for a person: ``+`` would change, ``=`` is already so, ``!`` is left as it is,
``-`` is not available here; counts and the next step last. Whoever prints clips to the screen.

    screen(plan)[-1] == "next: `edgewarden confine apply --confirm 10m`"
"""

from __future__ import annotations

import textwrap

from edgewarden.confine.facts import Item, Plan, State

WIDTH = 80
"""A serial console; as in cli/console.py."""
SIGNS = {State.CHANGE: "+", State.ALREADY: "=", State.KEPT: "!", State.NOT_HERE: "-"}
HEADS = {"mount": "places", "sysctl": "sysctls"}


def screen(made: Plan) -> list[str]:
    """The plan, a line for each service, place and sysctl, and what to do next."""
    rows = []
    for service in made.services:
        if service.refused:
            rows.append(f"- {service.unit}: {service.refused}")
            continue
        counts = [(sign, [i for i in service.items if SIGNS[i.state] == sign]) for sign in "+=!-"]
        head = "=" if not counts[0][1] else "+"
        rows.append(f"{head} {service.unit}")
        for sign, some in counts:
            told = f"{sign} {', '.join(item.name for item in some)}"
            lines = textwrap.wrap(told, WIDTH, initial_indent="    ", subsequent_indent="      ")
            rows += lines if some else []
    if not made.services:
        rows.append("- no service is managed: name them in [[confined]] of the settings")
    for area, head in HEADS.items():
        rows.append(head)
        some = [item for item in made.items if item.area == area]
        rows += [_row(item) for item in some if item.state is not State.ALREADY]
        so = ", ".join(item.subject for item in some if item.state is State.ALREADY)
        rows += textwrap.wrap(f"= {so}", WIDTH, subsequent_indent="  ") if so else []
    kinds = [sum(1 for i in made.items if i.state is state) for state in State]
    rows.append(f"{kinds[1]} would change, {kinds[0]} already so, {kinds[2] + kinds[3]} stay open")
    step = "`edgewarden confine apply --confirm 10m`" if kinds[1] else "`edgewarden confine verify`"
    rows += ["why, and what breaks: `edgewarden confine show NAME`", f"next: {step}"]
    return rows


def _row(item: Item) -> str:
    sign = SIGNS[item.state]
    if item.is_gap:
        return f"{sign} {item.subject:<34} {item.why}"
    return f"{sign} {item.subject:<34} {item.now or '(nothing)'} -> {item.want}"
