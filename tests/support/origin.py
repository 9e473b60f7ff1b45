"""The origin of a delivery that no broker delivered."""

from __future__ import annotations

from dataclasses import dataclass

from rmqkit.message import PERSISTENT, Properties
from rmqkit.payload.field_table import encode_properties


@dataclass(unsafe_hash=True)
class FakeOrigin:
    exchange: str = ""
    routing_key: str = "q"
    properties: Properties = PERSISTENT
    consumer_tag: str = "ctag1"
    malformed: str = ""

    @property
    def header(self) -> bytes:
        """Return the encoded properties."""
        return encode_properties(self.properties)
