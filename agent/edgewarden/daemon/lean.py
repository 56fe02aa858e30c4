"""The way into link: what link never uses is not loaded.

What this decides: which modules of the standard library become real only when somebody uses them.
Other people's libraries import them for what link never asks of them, and each costs memory for as
long as link lives (tests/bench/imports.py). Rule: only what a library reaches for at run time,
never a name it needs while it is imported. The interpreter is a fresh one (cli/services.py): the
command's own modules and argparse are gone.

importlib's LazyLoader does not serve: on Python 3.11 a second ``import`` of the name looks at the
module's ``__spec__``, and that look loads it.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING

from edgewarden.kernel import signals

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

LAZY = (
    "tokenize",  # linecache, for source code
    "inspect",  # dataclasses, for classes without a docstring; asyncio; brings ast and dis
    "uuid",  # paho, for client ids it is not asked to invent
    "shutil",  # folders that are taken away; brings bz2 and lzma
    "ipaddress",  # urllib.parse, for addresses in brackets; ours, for a peer that was refused
    "locale",  # subprocess, for text from programs; asyncio brings it
    "urllib.request",  # paho, for proxies named in the environment; brings tempfile
)


class Later(ModuleType):
    """A module whose first missing attribute loads it; other threads wait until it is whole."""

    def __getattr__(self, name: str) -> object:
        with _LOADING:
            spec = self.__dict__.pop("__spec_of_later__", None)
            if spec is not None:
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment] # whole now: no more asking
        return ModuleType.__getattribute__(self, name)


_LOADING = threading.RLock()


def lazily(*names: str) -> None:
    """Put modules in place that are loaded when something of them is asked for.

    A name that is loaded already, or that this interpreter has not, is left as it is.
    """
    for name in names:
        parent, _, last = name.rpartition(".")
        if parent:
            importlib.import_module(parent)
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            continue
        module = Later(name)
        module.__spec__ = module.__dict__["__spec_of_later__"] = spec
        sys.modules[name] = module
        if parent:
            setattr(sys.modules[parent], last, module)


def hear_signals(
    loop: AbstractEventLoop, stop: Callable[[], object], reload: Callable[[], object]
) -> None:
    """TERM and INT call ``stop``, HUP ``reload``, in the loop; on the main thread.

    Not the loop's own way, which asks whether a callback is a coroutine function, nor ``signal``'s
    (kernel/signals.py): that is all that link would ever want of inspect, ast and dis.
    """
    calls = {signals.SIGTERM: stop, signals.SIGINT: stop, signals.SIGHUP: reload}
    for number, call in calls.items():
        signals.signal(number, lambda *_, call=call: loop.call_soon_threadsafe(call))


def main(settings_path: str) -> int:
    """Run link; returns its exit code."""
    lazily(*LAZY)
    from edgewarden.daemon import link

    return link.main(settings_path)
