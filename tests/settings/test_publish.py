"""[homeassistant] and [sparkplug]: off by default, and TLS everywhere but on this machine."""

from __future__ import annotations

import pytest

from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.publish import port_of
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings


def settings(text: str) -> Settings:
    return load_settings([SourceFile("edgewarden.toml", text)])


def test_both_are_off() -> None:
    found = settings("")
    assert (found.homeassistant.host, found.sparkplug.host) == (None, None)


@pytest.mark.parametrize("section", ["homeassistant", "sparkplug"])
@pytest.mark.parametrize("host", ["broker.example.org", "192.0.2.1", "localhost.example.org"])
def test_without_tls_only_on_this_machine(section: str, host: str) -> None:
    with pytest.raises(SettingsFaults) as caught:
        settings(f'[{section}]\nhost = "{host}"\n')
    (fault,) = caught.value.faults
    assert "name the root of its certificate in ca" in str(fault)
    settings(f'[{section}]\nhost = "{host}"\nca = "/etc/edgewarden/site-ca.pem"\n')


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_on_this_machine_it_may_be_left_out(host: str) -> None:
    assert port_of(settings(f'[sparkplug]\nhost = "{host}"\n').sparkplug) == 1883


def test_the_port_follows_tls() -> None:
    found = settings('[sparkplug]\nhost = "x"\nca = "/ca.pem"\n[homeassistant]\nport = 7\n')
    assert (port_of(found.sparkplug), port_of(found.homeassistant)) == (8883, 7)


@pytest.mark.parametrize("word", ["a/b", "+", "#", "", "x" * 33, "ü"])
@pytest.mark.parametrize("key", ["homeassistant]\nprefix", "sparkplug]\ngroup"])
def test_no_topic_is_opened_by_a_setting(key: str, word: str) -> None:
    with pytest.raises(SettingsFaults):
        settings(f'[{key} = "{word}"\n')
