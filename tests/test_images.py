import torch

from minimagen.images import Batch, resize, resize_clamped, to_model_space, to_uint8


def test_every_uint8_value_survives_model_space():
    values = torch.arange(256, dtype=torch.uint8)
    model = to_model_space(values)
    assert model.min() == -1.0 and model.max() == 1.0
    assert torch.equal(to_uint8(model), values)


def test_values_outside_are_clamped_and_the_rest_is_rounded_to_nearest():
    values = torch.tensor([-7.0, -1.0, 0.0, 0.4 / 127.5, 0.6 / 127.5, 1.0, 3.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 128, 128, 255, 255]
    assert to_uint8(values.bfloat16()).dtype == torch.uint8


def test_the_same_size_is_left_alone():
    x = torch.randn(2, 3, 8, 6)
    assert torch.equal(resize(x, (8, 6)), x)


def test_a_flat_image_stays_flat_up_and_down():
    flat = torch.full((1, 3, 8, 8), 0.3)
    for size in ((4, 4), (2, 8), (16, 24)):
        torch.testing.assert_close(resize(flat, size), torch.full((1, 3, *size), 0.3))


def test_shrinking_is_antialiased():
    """Lines finer than the small grid keep their share of the light: none of them falls through."""
    for offset in range(4):
        lines = torch.full((1, 3, 32, 32), -1.0)
        lines[..., offset::4] = 1.0
        small = resize(lines, (8, 8))[..., 2:-2]  # away from the borders
        torch.testing.assert_close(small, torch.full_like(small, -0.5), rtol=0, atol=0.05)


def test_bicubic_overshoot_is_clamped_where_images_are_needed():
    edge = torch.ones(1, 3, 8, 8)
    edge[..., :4] = -1.0
    assert resize(edge, (32, 32)).abs().max() > 1.01
    assert resize_clamped(edge, (32, 32)).abs().max() <= 1.0


def test_a_slice_keeps_images_with_their_captions():
    batch = Batch(torch.arange(5), torch.arange(5) * 10, torch.arange(5) * 100)
    part = batch[1:3]
    assert len(batch) == 5 and len(part) == 2
    assert part.images.tolist() == [1, 2]
    assert part.text_embeds.tolist() == [10, 20]
    assert part.to(torch.device("cpu")).text_mask.tolist() == [100, 200]
