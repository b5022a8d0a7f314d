"""Files of encoded captions: written whole or not at all, sorted, read through a memory map.

A segment is a safetensors file. Its tensors, n captions and k tokens in all:

    starts    I64 [n]     where a caption's tokens begin in ``embeds``
    lengths   I32 [n]     how many there are
    checks    U32 [n]     CRC-32 of their bytes
    captions  U8  [n, 16] hash of each caption, in ascending order
    embeds    BF16 [k, d] the tokens of all captions one after the other, no padding

The header holds the CRC-32 of all but ``embeds``, and every caption's own is compared whenever it
is read. So nothing has to be synced to the disk in order: what a power cut or a bad disk left
damaged is seen and encoded again.
"""

import json
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimagen.storage.files import replacing

SUFFIX = ".safetensors"
HASH_BYTES = 16
HASHES = f"S{HASH_BYTES}"
HEADER_LIMIT = 4096  # bytes; ours have a tenth


class DamagedSegmentError(Exception):
    """A segment that is not as it was written; the message names it and says why."""


class Index(NamedTuple):
    """Where a segment's captions are; sorted by hash."""

    starts: np.ndarray  # int64 [n], tokens
    lengths: np.ndarray  # int32 [n], tokens
    checks: np.ndarray  # uint32 [n]
    hashes: np.ndarray  # S16 [n]


DTYPES = (("starts", "<i8"), ("lengths", "<i4"), ("checks", "<u4"), ("captions", HASHES))


@dataclass(frozen=True)
class Segment:
    """An open segment; all arrays are views of the mapped file."""

    path: Path
    index: Index
    embeds: np.ndarray  # [k, d] uint16, the bits of bfloat16, which numpy does not have

    @property
    def size(self) -> int:
        """Bytes of all tokens."""
        return self.embeds.nbytes

    def find(self, wanted: Sequence[bytes]) -> Iterator[tuple[bytes, Tensor | None]]:
        """Yield those of the ``wanted`` hashes that are here, each with its tokens.

        The tokens are bfloat16 ``[n, d]``, copied out of the map; None where they are damaged.
        """
        hashes = self.index.hashes
        asked = np.array(wanted, HASHES)
        places = np.minimum(np.searchsorted(hashes, asked), len(hashes) - 1)
        here = np.flatnonzero(hashes[places] == asked)
        starts, lengths, checks, _ = (column[places[here]].tolist() for column in self.index)
        # One block for all: thousands of small ones would leave the memory full of holes.
        block = torch.empty(sum(lengths), self.embeds.shape[1], dtype=torch.bfloat16)
        bits, at = block.view(torch.int16).numpy().view(np.uint16), 0
        for i, start, length, check in zip(here.tolist(), starts, lengths, checks, strict=True):
            rows = slice(at, at + length)
            bits[rows] = self.embeds[start : start + length]
            yield wanted[i], block[rows] if zlib.crc32(bits[rows].data) == check else None
            at += length


def open_segment(path: Path) -> Segment:
    """Map a segment after checking all but its tokens.

    Raises:
        DamagedSegmentError: it is not as it was written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        found = file.read(min(length, HEADER_LIMIT))
    try:
        parsed = json.loads(found)
        count, (tokens, width) = parsed["captions"]["shape"][0], parsed["embeds"]["shape"]
        crc = int(parsed["__metadata__"]["index_crc32"])
        header = _header(count, tokens, width, crc)
        size = len(header) + count * _row_bytes() + 2 * tokens * width
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError):
        raise DamagedSegmentError(f"{path} has a damaged header") from None
    if header[8:] != found or path.stat().st_size != size:
        raise DamagedSegmentError(f"{path} is not as long as it was")
    whole = np.asarray(np.memmap(path, np.uint8, "r"))
    at = len(header)
    if zlib.crc32(whole[at : at + count * _row_bytes()].data) != crc:
        raise DamagedSegmentError(f"{path} has a damaged index")
    columns = []
    for _, dtype in DTYPES:
        end = at + count * np.dtype(dtype).itemsize
        columns.append(whole[at:end].view(dtype))
        at = end
    return Segment(path, Index(*columns), whole[at:].view("<u2").reshape(tokens, width))


def write_segment(folder: Path, encodings: Mapping[bytes, Tensor]) -> Path:
    """Write bfloat16 tokens ``[n_i, d]`` by hash into a new segment.

    Raises:
        UserError: it cannot be written; nothing is left behind.
    """
    hashes = sorted(encodings)
    lengths = np.array([len(encodings[each]) for each in hashes], "<i4")
    starts = np.cumsum(lengths, dtype="<i8") - lengths
    parts = [encodings[each].contiguous().view(torch.int16).numpy() for each in hashes]
    checks = np.array([zlib.crc32(part.data) for part in parts], "<u4")
    index = Index(starts, lengths, checks, np.array(hashes, HASHES))
    columns = b"".join(column.tobytes() for column in index)
    embeds = np.concatenate(parts)
    tokens, width = embeds.shape
    path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
    with replacing(path, shared=True) as part, part.open("wb") as file:
        file.write(_header(len(hashes), tokens, width, zlib.crc32(columns)))
        file.write(columns)
        file.write(embeds.data)
    return path


def _row_bytes() -> int:
    return sum(np.dtype(dtype).itemsize for _, dtype in DTYPES)


def _header(count: int, tokens: int, width: int, crc: int) -> bytes:
    """Return the safetensors header, which follows from these numbers."""
    shapes = {
        "starts": ("I64", [count], 8 * count),
        "lengths": ("I32", [count], 4 * count),
        "checks": ("U32", [count], 4 * count),
        "captions": ("U8", [count, HASH_BYTES], HASH_BYTES * count),
        "embeds": ("BF16", [tokens, width], 2 * tokens * width),
    }
    header: dict[str, object] = {"__metadata__": {"index_crc32": str(crc)}}
    at = 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
