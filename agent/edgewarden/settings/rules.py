"""Rules between keys: settings that are well-formed each and wrong together.

Each rule yields (path below the table, text, code). They run only on tables whose own keys are in
order, so that one mistake is named once.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgewarden.settings.brokers import broker_rules
from edgewarden.settings.channels import SerialChannel, channel_rules
from edgewarden.settings.faults import BAD_FORM, CONTRADICTION
from edgewarden.settings.peers import address_fault, unit_fault
from edgewarden.settings.processes import RequiredProcess, required_rules
from edgewarden.settings.publish import publish_rules
from edgewarden.settings.schema import Settings
from edgewarden.settings.serial import (
    ModbusRegister,
    Serial,
    SerialField,
    field_rules,
    register_rules,
    serial_rules,
)
from edgewarden.settings.tree import Broken, TableRules

MOST_KEPT_PERCENT = 90
"""Of the cap for alarm and audit together: a tenth is the least that bulk can rotate in."""


def settings_rules(settings: Settings) -> Iterator[Broken]:
    """What the whole tree must keep; paths start at the root, a port is named by its name."""
    up = settings.uplink
    if up.reconnect_base_s > up.reconnect_cap_s:
        text = f"{up.reconnect_base_s:g} is above reconnect_cap_s = {up.reconnect_cap_s:g}"
        yield ("uplink", "reconnect_base_s"), text, CONTRADICTION
    yield from broker_rules(up, settings.spool.bulk_commit_bytes)
    kept = settings.spool.alarm_percent + settings.spool.audit_percent
    if kept > MOST_KEPT_PERCENT:
        text = f"{settings.spool.audit_percent} and alarm_percent make {kept} of at most "
        yield ("spool", "audit_percent"), f"{text}{MOST_KEPT_PERCENT}", CONTRADICTION
    if settings.paths.state == settings.paths.run:
        text = "the same directory as paths.state, which must survive a boot"
        yield ("paths", "run"), text, CONTRADICTION
    for value in settings.network.enrolled:
        if fault := address_fault(value):
            yield ("network", "enrolled"), fault, BAD_FORM
    for value in settings.network.managed_units:
        if fault := unit_fault(value):
            yield ("network", "managed_units"), fault, CONTRADICTION
    yield from publish_rules("homeassistant", settings.homeassistant)
    yield from publish_rules("sparkplug", settings.sparkplug)
    owner: dict[str, str] = {}
    for serial in settings.serial:
        first = owner.setdefault(serial.port, serial.name)
        if first != serial.name:
            yield ("serial", serial.name, "port"), f"already used by {first}", CONTRADICTION


TABLE_RULES: TableRules = {
    ModbusRegister: register_rules,
    Serial: serial_rules,
    SerialField: field_rules,
    SerialChannel: channel_rules,
    RequiredProcess: required_rules,
}
