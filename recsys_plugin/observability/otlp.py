"""Spans in the binary form of OpenTelemetry's protocol (OTLP 1, ``ExportTraceServiceRequest``).

It says the same as OpenTelemetry's own encoder (a test compares them), which makes some forty protobuf objects of a
request's four spans, and takes several times as long: more than all else that is done of a traced request.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

__all__ = ["encode_spans"]

# Fields are those of opentelemetry/proto/trace/v1/trace.proto and common/v1/common.proto. A tag is the field's number
# times eight, plus 0 for a varint, 1 for eight bytes, 2 for bytes that follow their length, 5 for four bytes.
_KINDS = {
    SpanKind.INTERNAL: b"\x30\x01",
    SpanKind.SERVER: b"\x30\x02",
    SpanKind.CLIENT: b"\x30\x03",
    SpanKind.PRODUCER: b"\x30\x04",
    SpanKind.CONSUMER: b"\x30\x05",
}
#: Start and end.
_TIMES = struct.Struct("<BQBQ")
_FLOAT = struct.Struct("<Bd")
#: Flags: it is known whether the parent is of another process, which it is not, or is.
_HERE, _REMOTE = b"\x85\x01\x00\x01\x00\x00", b"\x85\x01\x00\x03\x00\x00"
#: Encoded attributes that are kept: all but ids are the same again and again.
_KEPT = 1_024
_UNSIGNED = (1 << 64) - 1
#: Spans that are encoded at a time, and seconds until the next.
_BITE, _BREATH = 64, 0.0001


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """The message that hands over spans of one resource and one instrumentation scope.

    Other threads get the interpreter in between, however many spans there are.
    """
    encoded = []
    for place, span in enumerate(spans, 1):
        encoded.append(_field(b"\x12", _span(span)))
        if place % _BITE == 0:
            time.sleep(_BREATH)
    resource, scope = spans[0].resource, spans[0].instrumentation_scope
    of_scope = _field(b"\x0a", _text(b"\x0a", "" if scope is None else scope.name)) + b"".join(encoded)
    named = b"".join([_attribute(b"\x0a", key, value) for key, value in resource.attributes.items()])
    of_resource = _field(b"\x0a", named) + _field(b"\x12", of_scope)
    return _field(b"\x0a", of_resource + _text(b"\x1a", resource.schema_url))


def _span(span: ReadableSpan) -> bytes:
    """One span that is over, without events and links, which ours do not have."""
    context, parent, status = span.context, span.parent, span.status
    told = _field(b"\x12", (status.description or "").encode()) if status.description else b""
    if status.status_code.value:
        told += b"\x18" + _varint(status.status_code.value)
    return b"".join(
        (
            b"\x0a\x10" + context.trace_id.to_bytes(16, "big"),
            b"\x12\x08" + context.span_id.to_bytes(8, "big"),
            b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8, "big"),
            _text(b"\x2a", span.name),
            _KINDS[span.kind],
            _TIMES.pack(0x39, span.start_time or 0, 0x41, span.end_time or 0),
            b"".join([_kept_attribute(b"\x4a", key, value) for key, value in (span.attributes or {}).items()]),
            _field(b"\x7a", told),
            _REMOTE if parent is not None and parent.is_remote else _HERE,
        )
    )


def _attribute(tag: bytes, key: str, value: AttributeValue) -> bytes:
    return _field(tag, _text(b"\x0a", key) + _field(b"\x12", _value(value)))


_kept_attribute = lru_cache(_KEPT, typed=True)(_attribute)


def _value(value: AttributeValue) -> bytes:
    if isinstance(value, str):
        return _field(b"\x0a", value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & _UNSIGNED)
    if isinstance(value, float):
        return _FLOAT.pack(0x21, value)
    if isinstance(value, bytes):
        return _field(b"\x3a", value)
    if isinstance(value, Mapping):
        return _field(b"\x32", b"".join(_attribute(b"\x0a", key, one) for key, one in value.items()))
    if value is None:
        return b""
    return _field(b"\x2a", b"".join(_field(b"\x0a", _value(one)) for one in value))


def _text(tag: bytes, text: str) -> bytes:
    """A text, which is left out if it is empty."""
    return _field(tag, text.encode()) if text else b""


def _field(tag: bytes, content: bytes) -> bytes:
    length = len(content)
    return tag + (bytes((length,)) if length < 0x80 else _varint(length)) + content


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
