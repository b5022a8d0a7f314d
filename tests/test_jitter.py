"""Images changed a little at random."""

import torch

from minimagen.draws import Draws
from minimagen.jitter import GRAY, jittered


def images(rows: int = 4) -> torch.Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_strength_0_changes_nothing_and_little_changes_little() -> None:
    x, draws = images(), Draws(0, "clip", 0, 4)
    assert jittered(x, draws, 0.0) is x
    near = jittered(x, draws, 1e-4)
    torch.testing.assert_close(near, x, rtol=0, atol=2e-3)
    far = jittered(x, draws, 1.0)
    assert (far - x).abs().mean() > 0.1 and far.abs().max() <= 1.0


def test_a_row_has_its_own_numbers_in_any_piece_of_the_batch() -> None:
    x = images()
    whole = jittered(x, Draws(3, "clip", 5, 4), 1.0)
    parts = [jittered(x[i : i + 2], Draws(3, "clip", 5, 4, i, 2), 1.0) for i in (0, 2)]
    assert torch.equal(torch.cat(parts), whole)
    same = jittered(x[:1].expand(4, -1, -1, -1), Draws(3, "clip", 5, 4), 1.0)
    assert not torch.equal(same[0], same[1])


def test_a_share_of_the_images_loses_its_color() -> None:
    x = images(400)
    changed = jittered(x, Draws(0, "clip", 0, 400), 1.0)
    gray = (changed == changed[:, :1]).flatten(1).all(1).double().mean()
    assert abs(float(gray) - GRAY) < 4 * (GRAY * (1 - GRAY) / 400) ** 0.5


def test_a_flat_image_stays_flat_and_only_its_color_moves() -> None:
    x = torch.full((8, 3, 16, 16), 0.2)
    changed = jittered(x, Draws(0, "clip", 0, 8), 1.0)
    assert changed.flatten(2).std(2).max() < 1e-5
    assert changed[:, :, 0, 0].std() > 0.02
