"""A shuffled order that is computed, not stored: 10^9 rows cost as much memory as ten."""

import hashlib

import numpy as np

ROUNDS = 8
MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # MurmurHash3's finaliser


class Permutation:
    """A permutation of ``range(length)`` that depends on ``key`` only.

    A Feistel network permutes the next power of four; positions that leave the range are sent
    through again until they come back to it (cycle walking: Black and Rogaway 2002).
    """

    def __init__(self, length: int, *key: int | str) -> None:
        self.length = length
        self._half_bits = np.uint64(max(1, -(-(length - 1).bit_length() // 2)))
        self._mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, "<u8")

    def __len__(self) -> int:
        """Return the length of the range."""
        return self.length

    def __getitem__(self, position: int) -> int:
        """Return what stands at one position in ``range(length)``."""
        return int(self.at(np.array([position]))[0])

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return what stands at ``positions``, int64 [n], each in ``range(length)``."""
        numbers = self._once(positions.astype(np.uint64))
        while (outside := numbers >= np.uint64(self.length)).any():
            numbers[outside] = self._once(numbers[outside])
        return numbers.astype(np.int64)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half_bits, numbers & self._mask
        for key in self._round_keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    for factor in MIX:
        numbers = (numbers ^ (numbers >> np.uint64(33))) * factor
    return numbers ^ (numbers >> np.uint64(33))
