"""Which samples make up which step: a function of (seed, step), so a run can start anywhere."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from minimagen.data.permutation import Permutation


@dataclass(frozen=True)
class Order:
    """The samples of every step of an endless run: each epoch a fresh permutation.

    Every step takes its samples from one group; usually there is but one, aspect buckets are
    several. Data without end (``endless``) needs no permutation: position p is sample p.
    """

    lengths: tuple[int, ...]
    """Samples of each group; their indices follow one another."""
    seed: int
    endless: bool = False

    def batches(
        self, batch_size: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[list[tuple[int, int]]]:
        """Yield (position, sample index) of the rows of the steps ``start ... stop - 1``.

        They are the ``rank``-th of ``world`` equal shares of each step's rows, all by default.
        """
        each = batch_size // world
        for step in range(start, stop):
            group, turn = self.group_of(step)
            rows = range(rank * each, (rank + 1) * each)
            yield [
                (step * batch_size + row, self.at(turn * batch_size + row, group)) for row in rows
            ]

    def at(self, position: int, group: int = 0) -> int:
        """Return the sample index at a position of a group's own endless run."""
        if self.endless:
            return position
        length = self.lengths[group]
        epoch, place = divmod(position, length)
        return sum(self.lengths[:group]) + Permutation(length, self.seed, "order", epoch)[place]

    def after(self, index: int) -> int:
        """Return the next index of the same group; after its last comes its first."""
        starts = [0, *accumulate(self.lengths[:-1])]
        group = bisect_right(starts, index) - 1
        return starts[group] + (index - starts[group] + 1) % self.lengths[group]

    def group_of(self, step: int) -> tuple[int, int]:
        """Return the group of a step, and how many steps before it were of that group.

        A group of n samples is due at the times (k + 1/2) / n, k = 0, 1, 2 ...; the step is the
        step-th of all due times. So in any number of steps each group has had its share, to within
        the number of groups, and any step is found without the ones before it.
        """
        if len(self.lengths) == 1:
            return 0, step
        groups, total = len(self.lengths), sum(self.lengths)
        early = max(0, step - groups)  # before the time early / total fewer than step are due
        firsts = [max(0, -((total - 2 * early * n) // (2 * total))) for n in self.lengths]
        due = sorted(
            (Fraction(2 * k + 1, n), group, k)
            for group, (n, first) in enumerate(zip(self.lengths, firsts, strict=True))
            for k in range(first, first + 2 * groups + 1)
        )
        _, group, turn = due[step - sum(firsts)]
        return group, turn
