"""A shuffled order that is computed, not stored: 10^9 rows cost as much memory as ten."""

import hashlib
import struct

ROUNDS = 8
MIX = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)  # MurmurHash3's finaliser
WORD = 2**64 - 1


class Permutation:
    """A permutation of ``range(length)`` that depends on ``key`` only.

    A Feistel network permutes the next power of four; positions that leave the range are sent
    through again until they come back to it (cycle walking: Black and Rogaway 2002).
    """

    def __init__(self, length: int, *key: int | str) -> None:
        self.length = length
        self._half_bits = max(1, -(-(length - 1).bit_length() // 2))
        self._mask = (1 << self._half_bits) - 1
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * ROUNDS).digest()
        self._round_keys = struct.unpack(f"<{ROUNDS}Q", digest)

    def __getitem__(self, position: int) -> int:
        number = self._once(position)
        while number >= self.length:
            number = self._once(number)
        return number

    def _once(self, number: int) -> int:
        left, right = number >> self._half_bits, number & self._mask
        for key in self._round_keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mixed(number: int) -> int:
    for factor in MIX:
        number = ((number ^ (number >> 33)) * factor) & WORD
    return number ^ (number >> 33)
