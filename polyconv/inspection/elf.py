"""A copy of a shared library whose symbols lose a prefix: `scipy_cblas_sgemm` -> `cblas_sgemm`.

The OpenBLAS on the package index has every name prefixed, so that it does not get in the way of
others. MLX asks for the plain names. A name without its prefix is the tail of the one that is
stored, so a symbol is renamed by an offset, and no byte of the library moves. Only the hash table,
by which the loader finds names, is written anew, in its old place.

Standard library only. The format: System V ABI, "Symbol Table"; the table: `DT_GNU_HASH` of glibc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_LOADED, _DYNAMIC = 1, 2  # types of segments
_STRINGS, _SYMBOLS, _OLD_HASH, _HASH = 5, 6, 4, 0x6FFFFEF5  # tags of the dynamic section
_SYMBOL_BYTES = 24


def without_prefix(library: bytes, prefix: bytes) -> bytes:
    """The library with the prefix taken off all exported names that have it.

    Args:
        library (bytes): A 64-bit little-endian ELF file.
        prefix (bytes): Such as ``b"scipy_"``.

    Returns:
        bytes: As long as ``library``.

    Raises:
        ValueError: If it is not such a file, or has another kind of table of names.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        return _renamed(bytearray(library), prefix)
    except (struct.error, KeyError, StopIteration, IndexError) as error:
        raise ValueError(f"an ELF file of another layout ({error!r})") from error


def _renamed(data: bytearray, prefix: bytes) -> bytes:
    segments = list(_segments(data))
    tags = _tags(data, segments)
    if _OLD_HASH in tags:
        raise ValueError("has a second table of names")
    strings, symbols, table = (_offset(tags[tag], segments) for tag in (_STRINGS, _SYMBOLS, _HASH))
    n_buckets, first, n_words, shift = struct.unpack_from("<4I", data, table)
    buckets = table + 16 + 8 * n_words
    last = _last(data, buckets, n_buckets, first)
    hashes = []
    for i in range(first, last + 1):
        at = symbols + i * _SYMBOL_BYTES
        (name,) = struct.unpack_from("<I", data, at)
        if data.startswith(prefix, strings + name):
            name += len(prefix)
            struct.pack_into("<I", data, at, name)
        hashes.append(_hash(data[strings + name : data.index(0, strings + name)]))
    _write_table(data, table, hashes, first, n_words, shift)
    return bytes(data)


def _segments(data: bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Type, offset in the file, address and size of each segment."""
    (begin,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<2H", data, 54)
    for i in range(count):
        kind, _, offset, address, _, n_bytes = struct.unpack_from("<2I4Q", data, begin + i * size)
        yield kind, offset, address, n_bytes


def _tags(data: bytearray, segments: list[tuple[int, int, int, int]]) -> dict[int, int]:
    begin, n_bytes = next((s[1], s[3]) for s in segments if s[0] == _DYNAMIC)
    return dict(struct.iter_unpack("<2Q", data[begin : begin + n_bytes]))


def _offset(address: int, segments: list[tuple[int, int, int, int]]) -> int:
    """Where in the file lies what is loaded at an address."""
    return next(
        offset + address - begin
        for kind, offset, begin, n_bytes in segments
        if kind == _LOADED and begin <= address < begin + n_bytes
    )


def _last(data: bytearray, buckets: int, n_buckets: int, first: int) -> int:
    """The last symbol of the table: that of the last chain whose lowest bit is set."""
    last: int = max(struct.unpack_from(f"<{n_buckets}I", data, buckets))
    chains = buckets + 4 * n_buckets
    while not data[chains + 4 * (last - first)] & 1:
        last += 1
    return last


def _hash(name: bytes | bytearray) -> int:
    value = 5381
    for byte in name:
        value = (33 * value + byte) & 0xFFFFFFFF
    return value


def _write_table(
    data: bytearray, table: int, hashes: list[int], first: int, n_words: int, shift: int
) -> None:
    """Puts all symbols into one bucket, since several would need the symbols in their order.

    A name that exists is found by walking one chain. Of most other names the filter says before
    that they do not exist.
    """
    words = [0] * n_words
    for value in hashes:
        words[value // 64 % n_words] |= 1 << value % 64 | 1 << (value >> shift) % 64
    chain = [value & ~1 for value in hashes]
    chain[-1] |= 1
    struct.pack_into("<I", data, table, 1)
    struct.pack_into(f"<{n_words}Q{1 + len(chain)}I", data, table + 16, *words, first, *chain)
