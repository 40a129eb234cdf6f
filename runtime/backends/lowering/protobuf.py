"""Read and write the wire format of Protocol Buffers, to change an ONNX file and keep the rest byte for byte."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Value = int | bytes
"""An integer, or the bytes of a string, a message, packed numbers or a float."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_UINT64 = (1 << 64) - 1
_SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the file; a repeated field is several of them."""

    number: int
    wire_type: int
    value: Value


@dataclass(slots=True)
class Message:
    """The fields of a message in order. Messages inside it stay bytes until they are requested."""

    fields: list[Field] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> "Message":
        """Parse a message.

        Raises:
            ValueError: the bytes are no message.
        """
        try:
            return cls(list(_fields(data)))
        except IndexError as error:
            raise ValueError("it ends within a field") from error

    def encode(self) -> bytes:
        """Return the message's bytes."""
        out = bytearray()
        for item in self.fields:
            out += _varint(item.number << 3 | item.wire_type)
            if isinstance(item.value, int):
                out += _varint(item.value & _UINT64)
            else:
                out += (_varint(len(item.value)) if item.wire_type == _BYTES else b"") + item.value
        return bytes(out)

    def integer(self, number: int, default: int = 0) -> int:
        """Return the last integer with that field number, or `default`."""
        values = self.integers(number)
        return values[-1] if values else default

    def integers(self, number: int) -> list[int]:
        """Return all integers with that field number, packed or not."""
        values: list[int] = []
        for value in self._values(number):
            values += [value] if isinstance(value, int) else _packed(value)
        return [value - (1 << 64) if value & _SIGN else value for value in values]

    def data(self, number: int) -> bytes:
        """Return the last bytes with that field number; empty if there are none."""
        values = self.all_data(number)
        return values[-1] if values else b""

    def all_data(self, number: int) -> list[bytes]:
        """Return all bytes with that field number."""
        return [value for value in self._values(number) if isinstance(value, bytes)]

    def text(self, number: int) -> str:
        """Return the last string with that field number."""
        return self.data(number).decode()

    def texts(self, number: int) -> list[str]:
        """Return all strings with that field number."""
        return [value.decode() for value in self.all_data(number)]

    def message(self, number: int) -> "Message":
        """Return the last message with that field number, parsed."""
        return Message.parse(self.data(number))

    def messages(self, number: int) -> list["Message"]:
        """Return all messages with that field number, parsed."""
        return [Message.parse(value) for value in self.all_data(number)]

    def put(self, number: int, *values: "int | str | bytes | Message") -> None:
        """Replace all fields with that number by `values`, after the other fields."""
        self.fields = [item for item in self.fields if item.number != number]
        self.fields += [_field(number, value) for value in values]

    def without(self, numbers: Iterable[int]) -> list[Field]:
        """Return the fields with other numbers than these."""
        left_out = set(numbers)
        return [item for item in self.fields if item.number not in left_out]

    def _values(self, number: int) -> Iterator[Value]:
        return (item.value for item in self.fields if item.number == number)


def _field(number: int, value: int | str | bytes | Message) -> Field:
    if isinstance(value, int):
        return Field(number, _VARINT, value)
    if isinstance(value, Message):
        return Field(number, _BYTES, value.encode())
    return Field(number, _BYTES, value.encode() if isinstance(value, str) else value)


def _fields(data: bytes) -> Iterator[Field]:
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        wire_type = key & 7
        value: Value
        if wire_type == _VARINT:
            value, position = _read_varint(data, position)
        else:
            size, position = _size(data, position, wire_type)
            value = data[position : position + size]
            position += size
            if position > len(data):
                raise ValueError(f"a field of {size} bytes is longer than what holds it")
        yield Field(key >> 3, wire_type, value)


def _size(data: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Return the number of bytes of a field that is no varint, and their position."""
    if wire_type == _BYTES:
        return _read_varint(data, position)
    if wire_type not in _FIXED_BYTES:
        raise ValueError(f"wire type {wire_type} is not one of Protocol Buffers'")
    return _FIXED_BYTES[wire_type], position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an integer, which has seven bits in each byte, lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _packed(data: bytes) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _read_varint(data, position)
        values.append(value)
    return values
