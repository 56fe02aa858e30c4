"""sparkplug_b.proto as Google's protobuf library reads it, and a decoder of captured payloads.

    .venv-peers/bin/python -m tests.peers.sparkplug_proto < LINES     # topic, space, hexadecimal

Prints one JSON object a line. Source: Eclipse Sparkplug 3.0.0, Appendix A (package
org.eclipse.tahu.protobuf): names, numbers and types of the fields, without templates and data sets,
which no gateway of ours sends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

_TYPES = descriptor_pb2.FieldDescriptorProto
U32, U64, F32, F64 = _TYPES.TYPE_UINT32, _TYPES.TYPE_UINT64, _TYPES.TYPE_FLOAT, _TYPES.TYPE_DOUBLE
FLAG, TEXT, RAW = _TYPES.TYPE_BOOL, _TYPES.TYPE_STRING, _TYPES.TYPE_BYTES
MANY = "*"
MESSAGES: dict[str, list[tuple[int, str, Any]]] = {
    "PropertyValue": [
        (1, "type", U32), (2, "is_null", FLAG), (3, "int_value", U32), (4, "long_value", U64),
        (5, "float_value", F32), (6, "double_value", F64), (7, "boolean_value", FLAG),
        (8, "string_value", TEXT),
    ],
    "PropertySet": [(1, "keys*", TEXT), (2, "values*", "PropertyValue")],
    "MetaData": [
        (1, "is_multi_part", FLAG), (2, "content_type", TEXT), (3, "size", U64), (4, "seq", U64),
        (5, "file_name", TEXT), (6, "file_type", TEXT), (7, "md5", TEXT), (8, "description", TEXT),
    ],
    "Metric": [
        (1, "name", TEXT), (2, "alias", U64), (3, "timestamp", U64), (4, "datatype", U32),
        (5, "is_historical", FLAG), (6, "is_transient", FLAG), (7, "is_null", FLAG),
        (8, "metadata", "MetaData"), (9, "properties", "PropertySet"), (10, "int_value", U32),
        (11, "long_value", U64), (12, "float_value", F32), (13, "double_value", F64),
        (14, "boolean_value", FLAG), (15, "string_value", TEXT), (16, "bytes_value", RAW),
    ],
    "Payload": [
        (1, "timestamp", U64), (2, "metrics*", "Metric"), (3, "seq", U64), (4, "uuid", TEXT),
        (5, "body", RAW),
    ],
}  # fmt: skip


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="sparkplug_b.proto", package="org.eclipse.tahu.protobuf", syntax="proto2"
    )
    for name, rows in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, key, kind in rows:
            label = _TYPES.LABEL_REPEATED if key.endswith(MANY) else _TYPES.LABEL_OPTIONAL
            field = message.field.add(name=key.removesuffix(MANY), number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _TYPES.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"{file.package}.Payload")
    return message_factory.GetMessageClass(found)


Payload = _payload_class()


def strictly(data: bytes) -> Any:
    """The payload; raises ValueError for what the schema does not have."""
    payload = Payload.FromString(data)
    known = Payload.FromString(data)
    known.DiscardUnknownFields()
    if known.SerializeToString() != payload.SerializeToString():
        raise ValueError("a field that sparkplug_b.proto does not have")
    return payload


def main() -> None:
    for line in sys.stdin:
        topic, _, body = line.rstrip("\n").partition(" ")
        told = json_format.MessageToDict(
            strictly(bytes.fromhex(body)), preserving_proto_field_name=True
        )
        print(json.dumps({"topic": topic, **told}))


if __name__ == "__main__":
    main()
