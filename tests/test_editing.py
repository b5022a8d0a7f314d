"""Editing: closed forms where there are some, and what must be equal to the bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from minimagen import editing
from minimagen.between import BetweenCaptions, BetweenSeeds, stretched, unevenness
from minimagen.diffusion.inpainting import Resampled, continued, inpainted
from minimagen.diffusion.samplers import build_step, integrate
from minimagen.diffusion.schedule import Cosine, level_at, sampling_times
from minimagen.draws import SeededNoise, generator
from minimagen.errors import Stopped, UserError
from minimagen.given import shrunk
from minimagen.imagen import Imagen

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread_in_module")
QUICK = {"timesteps": 3, "progress": False, "precision": "fp32"}


@pytest.fixture(scope="module")
def imagen() -> Imagen:
    """Two stages, 16 and 32 px, trained a little."""
    return Imagen.from_directory(ROOT / "tests" / "golden" / "trained")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=generator("edited"), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def difference(a: Image.Image, b: Image.Image) -> float:
    one, other = (np.asarray(each, np.float64) for each in (a, b))
    return float(np.abs(one - other).mean())


def test_strength_says_how_far_an_image_is_left() -> None:
    """A trained cascade: 0.02 changes little under an image's own caption; another leads away."""
    emoji = Imagen.from_directory(ROOT / "pretrained" / "emoji")
    own, other = (
        f"{name}, noto style, on a {color} background"
        for name, color in (("a grinning face", "pink"), ("a red apple", "blue"))
    )
    before = emoji.sample(own, seed=0, progress=False)

    def distance(caption: str, strength: float) -> float:
        after = editing.image_to_image(emoji, caption, [before], strength, seed=1, progress=False)
        return difference(before, after)

    assert distance(own, 0.02) <= 3.0
    away = [distance(other, strength) for strength in (0.02, 0.3, 0.6, 1.0)]
    assert away == sorted(away) and away[0] < 30.0 and away[-1] > 60.0


def test_a_tiny_strength_still_takes_one_step_of_every_stage(
    imagen: Imagen, image: Image.Image
) -> None:
    steps: list[tuple[int, int, int]] = []

    def note(stage: int, step: int, of: int, _: Tensor) -> None:
        steps.append((stage, step, of))

    editing.image_to_image(imagen, "a star", [image], 0.001, seed=1, callback=note, **QUICK)
    assert steps == [(0, 0, 1), (1, 0, 1)]


def test_what_is_not_masked_is_kept_to_the_bit(imagen: Imagen, image: Image.Image) -> None:
    mask = Image.new("L", (32, 32))
    mask.paste(255, (5, 7, 20, 22))
    new = editing.inpaint(imagen, "a star", [image], [mask], seed=3, resample=2, **QUICK)
    where = np.asarray(mask) > 0
    before, after = np.asarray(image), np.asarray(new)
    assert (before[~where] == after[~where]).all()
    assert (before[where] != after[where]).mean() > 0.5


def test_every_estimate_of_an_inpainted_image_has_what_is_known(
    imagen: Imagen, image: Image.Image
) -> None:
    """So that what is new fits it; and each of the three steps is taken twice."""
    mask, seen, calls = Image.new("L", (32, 32)), [], []
    mask.paste(255, (16, 0, 32, 32))
    hook = imagen.stages[1].unet.register_forward_pre_hook(lambda *_: calls.append(1))
    settings = QUICK | {"guidance_scale": 1.0, "resample": 2, "seed": 3}
    editing.inpaint(
        imagen, "a star", image, mask, **settings,
        callback=lambda stage, i, n, x: seen.append(x) if stage else None,
    )  # fmt: skip
    hook.remove()
    known = editing.as_tensor(image, (32, 32))[..., :16]
    assert len(calls) == 6 and seen
    assert all(torch.equal(x[..., :16].float(), known) for x in seen)


def test_each_image_of_many_begins_with_its_own(imagen: Imagen, image: Image.Image) -> None:
    given, settings = [image, Image.new("RGB", image.size, "white")], QUICK | {"seeds": [1, 2]}
    captions = ["a", "b"]
    whole, split = (
        editing.image_to_image(imagen, captions, given, 0.02, batch_size=n, **settings)
        for n in (2, 1)
    )
    assert max(map(difference, whole, split)) < 1
    settings |= {"negative": ["a ring", "a blue star"], "guidance_scale": 4.0}
    whole, split = (imagen.sample(captions, batch_size=n, **settings) for n in (2, 1))
    assert max(map(difference, whole, split)) < 1
    assert difference(whole[0], whole[1]) > 2


def test_a_pixel_is_kept_at_a_smaller_size_only_where_all_it_covers_is_kept() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3, 5] = 1.0
    small = shrunk(mask, (2, 2))
    assert small.tolist() == [[[[0.0, 1.0], [0.0, 0.0]]]]


def gaussian_denoiser(mean: Tensor, cov: Tensor) -> object:
    """E[x_0 | x_t] of a Gaussian x_0, [b 1 1 d]."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        now = level_at(Cosine(), t[0])
        gain = (
            now.alpha
            * cov
            @ torch.linalg.inv(
                now.alpha**2 * cov + now.sigma**2 * torch.eye(len(mean), dtype=torch.float64)
            )
        )
        return mean + (x_t - now.alpha * mean) @ gain.T

    return denoise


@pytest.mark.parametrize("resample", [1, 2, 30])
def test_inpainting_has_the_conditional_mean_of_a_gaussian(resample: int) -> None:
    """x = (a, b) with correlation 0.8: E[b | a = 1.5] = 1.2."""
    mean, cov = torch.zeros(2, dtype=torch.float64), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    count = 4000
    known = torch.tensor([1.5, 0.0], dtype=torch.float64).expand(count, 1, 1, 2)
    mask = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    random = generator("inpainting")

    def draw(_: int) -> Tensor:
        return torch.randn(count, 1, 1, 2, generator=random, dtype=torch.float64)

    step = Resampled(build_step("ddim", Cosine(), 1.0), Cosine(), resample, draw)
    guess: Any = gaussian_denoiser(mean, cov)
    denoise = inpainted(guess, known, mask, Cosine(), resample)
    x = integrate(step, denoise, draw(0), sampling_times(24), draw)
    assert x[..., 0].sub(1.5).abs().max() < 1e-9
    assert float(x[..., 1].mean()) == pytest.approx(1.2, abs=0.06)


@pytest.mark.parametrize("size", [(16, 16), (17, 12), (1, 9)])
def test_what_is_continued_is_harmonic(size: tuple[int, int]) -> None:
    """x - 2 y solves Laplace's equation: known around a hole, it comes back in it."""
    height, width = size
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    plane = (columns - 2.0 * rows[:, None])[None, None]
    mask = torch.zeros_like(plane)
    mask[..., height // 3 : max(1, 2 * height // 3), width // 3 : 2 * width // 3] = 1.0
    found = continued(torch.where(mask > 0, 77.0, plane), mask)
    assert torch.equal(found[mask == 0], plane[mask == 0])
    assert (found - plane).abs().max() < 0.1
    assert continued(torch.full_like(plane, 0.3), mask).sub(0.3).abs().max() < 1e-12
    assert torch.equal(continued(plane, torch.ones_like(plane)), torch.zeros_like(plane))


def test_an_estimate_that_is_off_by_a_constant_has_no_seam() -> None:
    """At t = 0, where nothing is uncertain, what is new moves by what the known was missed by."""
    x_0 = torch.rand(2, 3, 8, 8, generator=generator("seam"), dtype=torch.float64)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mask[..., 2:6, 3:] = 1.0
    denoise = inpainted(lambda x_t, t: x_0 - 0.25, x_0, mask, Cosine())
    at = [denoise(x_0, torch.tensor(t, dtype=torch.float64)) for t in (0.0, 0.5, 1.0)]
    assert torch.allclose(at[0], x_0, atol=1e-12)
    for estimate in at:
        assert torch.equal(estimate[..., :3], x_0[..., :3])
    inside = [float((x_0 - estimate)[..., 3:5, 4:].mean()) for estimate in at]
    assert inside == pytest.approx([0.0, 0.125, 0.25], abs=1e-3)  # alpha^2 = 1, 1/2, 0


def test_noising_back_gives_the_distribution_of_the_time_before() -> None:
    """q(x_t | x_s) of x_s = alpha_s x_0 + sigma_s eps has the moments of x_t."""
    t, s = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    random = generator("back")

    def draw(_: int) -> Tensor:
        return torch.randn(200_000, generator=random, dtype=torch.float64)

    again = Resampled(build_step("ddim", Cosine()), Cosine(), 2, draw)
    then, now = level_at(Cosine(), s), level_at(Cosine(), t)
    x_t = again._noised_back(then.alpha * 0.9 + then.sigma * draw(0), t, s)
    assert float(x_t.mean()) == pytest.approx(float(now.alpha * 0.9), abs=0.01)
    assert float(x_t.std()) == pytest.approx(float(now.sigma), rel=0.01)


def test_variations_begin_with_the_image_each_with_its_own_seed(
    imagen: Imagen, image: Image.Image
) -> None:
    made = editing.variations(imagen, "a red star", image, 3, 0.5, seed=7, **QUICK)
    each = editing.image_to_image(
        imagen, ["a red star"] * 3, [image], 0.5, seeds=[7, 8, 9], **QUICK
    )
    assert [np.array_equal(a, b) for a, b in zip(made, each, strict=True)] == [True] * 3
    assert difference(made[0], made[1]) > 1.0


def test_interpolation_between_seeds_ends_at_them_and_stays_standard_normal(
    imagen: Imagen,
) -> None:
    frames = editing.interpolate_seeds(imagen, "a red star", 3, 8, 5, batch_size=1, **QUICK)
    for frame, seed in ((frames[0], 3), (frames[-1], 8)):
        alone = imagen.sample("a red star", seed=seed, **QUICK)
        assert frame.tobytes() == alone.tobytes()
    noise = BetweenSeeds(3, 8, 5, range(5), 0)("start", (200_000,))
    assert noise.std(1).sub(1.0).abs().max() < 0.01
    ends = SeededNoise((3, 8), 0)("start", (200_000,))
    assert noise[0].equal(ends[0]) and noise[-1].equal(ends[1])


def test_interpolation_between_captions_ends_at_them(imagen: Imagen) -> None:
    first, last = "a red star", "a large blue ring on a green background"
    same = {"seed": 2, "negative": "a circle", **QUICK}
    frames = editing.interpolate_captions(imagen, first, last, 3, batch_size=1, **same)
    for frame, caption in ((frames[0], first), (frames[-1], last)):
        assert frame.tobytes() == imagen.sample(caption, **same).tobytes()
    visiting = {"batch_size": 1, "device": torch.device("cpu"), **same}
    for frame, again in zip(
        frames, editing.interpolate_captions(imagen, first, last, 3, **visiting), strict=True
    ):
        assert frame.tobytes() == again.tobytes()  # stages on the device one at a time
    encoder = BetweenCaptions(imagen.text_encoder, first, last)
    a, b = imagen.text_encoder.encode([first, last])
    middle, other = encoder.encode([encoder.caption(0.5), "a circle"])
    assert torch.equal(other, imagen.text_encoder.encode(["a circle"])[0])  # such as a negative one
    assert len(middle) == len(b) > len(a)
    assert torch.allclose(middle[0], (a[0] + b[0]) / 2)
    assert torch.allclose(middle[-1], (a[-1] + b[-1]) / 2)
    assert stretched(a, 2 * len(a) - 1)[::2].sub(a).abs().max() < 1e-6


class Jumps:
    """Stands in for a cascade whose images change in a hundredth of the way alone."""

    def __init__(self) -> None:
        self.text_encoder = self
        self.sampled: list[float] = []

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        return [torch.zeros(1, 4)] * len(captions)

    def sample(self, captions: Sequence[str], **_: Any) -> list[Image.Image]:
        shares = [float(caption.split()[0]) for caption in captions]
        self.sampled += shares
        gray = [round(255 * min(1.0, max(0.0, 100 * (share - 0.7)))) for share in shares]
        return [Image.new("RGB", (2, 2), (g, g, g)) for g in gray]


def test_noise_near_the_first_seed_is_like_its_noise() -> None:
    shape = (9999,)
    near = BetweenSeeds(3, 8, 5, [1], 0)("start", shape)[0]
    first, last = SeededNoise((3, 8), 0)("start", shape)
    assert float((near * first).mean()) > 2 * float((near * last).mean())


def test_frames_between_captions_go_where_the_image_changes() -> None:
    jumps: Any = Jumps()
    frames = editing.interpolate_captions(jumps, "a", "b", 9)
    assert len(frames) == 9 and unevenness(frames) <= 2.0
    assert [f.getpixel((0, 0))[0] for f in (frames[0], frames[-1])] == [0, 255]
    assert len(jumps.sampled) == len(set(jumps.sampled)) <= 4 * 9
    even = editing.interpolate_captions(jumps, "a", "b", 9, rounds=1)
    assert unevenness(even) > 100.0  # one frame is black, the next is white


def test_an_interpolation_that_is_stopped_has_the_frames_of_its_best_round() -> None:
    class Stops(Jumps):
        def sample(self, captions: Sequence[str], **named: Any) -> list[Image.Image]:
            if len(self.sampled) >= most:
                raise Stopped("after a step")
            return super().sample(captions, **named)

    stops: Any = Stops()
    jumps: Any = Jumps()
    most = 10  # the third round is stopped
    kept = editing.interpolate_captions(stops, "a", "b", 9)
    best = editing.interpolate_captions(jumps, "a", "b", 9, rounds=2)
    assert [frame.tobytes() for frame in kept] == [frame.tobytes() for frame in best]
    most = 0
    with pytest.raises(Stopped):
        editing.interpolate_captions(stops, "a", "b", 9)


def test_a_film_that_is_stopped_ends_there(imagen: Imagen) -> None:
    def stop(stage: int, step: int, *_: Any) -> bool:
        return (stage, step) == (1, 0)

    frames = editing.film(imagen, "a red star", seed=1, callback=stop, **QUICK)
    whole = editing.film(imagen, "a red star", seed=1, **QUICK)
    assert [(f.stage, f.step) for f in frames] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    for one, other in zip(frames, whole, strict=False):
        assert one.image.tobytes() == other.image.tobytes()


def test_a_film_ends_with_the_image(imagen: Imagen) -> None:
    frames = editing.film(imagen, "a red star", seed=1, **QUICK)
    assert [(f.stage, f.step) for f in frames] == [(0, 0), (0, 1), (0, 2)] + [
        (1, step) for step in range(4)
    ]
    assert frames[-1].image.tobytes() == imagen.sample("a red star", seed=1, **QUICK).tobytes()


def test_a_sweep_has_a_cell_for_each_combination(imagen: Imagen) -> None:
    cells = editing.sweep(
        imagen, "a star", {"guidance_scale": [1.0, 3.0], "timesteps": [1, 2]}, seed=4,
        progress=False, precision="fp32",
    )  # fmt: skip
    assert [tuple(cell.values()) for cell, _ in cells] == [(1.0, 1), (1.0, 2), (3.0, 1), (3.0, 2)]
    quick = {"progress": False, "precision": "fp32"}
    alone = imagen.sample("a star", seed=4, guidance_scale=3.0, timesteps=1, **quick)
    assert cells[2][1].tobytes() == alone.tobytes()


def test_upscaling_begins_with_the_image_as_the_cascade_would(imagen: Imagen) -> None:
    """The base's own image, given back, gives what the cascade makes of it."""
    seeds, samplings = [5], imagen.samplings(timesteps=3)
    small, large = imagen.sample_stages(["a red star"], samplings, seeds, precision="fp32")
    again = editing.upscale(imagen, "a red star", small, seed=5, **QUICK)
    assert difference(again, large[0]) < 1  # between the stages it was rounded to 8 bits


def test_a_sweep_without_a_seed_has_the_same_fresh_one(imagen: Imagen) -> None:
    axes = {"timesteps": [2, 2]}
    (_, one), (_, other) = editing.sweep(imagen, "a red star", axes, progress=False)
    assert np.array_equal(one, other)


def test_one_image_need_not_be_in_a_list(imagen: Imagen, image: Image.Image) -> None:
    white = Image.new("L", image.size, 255)
    for edit, given in ((editing.image_to_image, [image]), (editing.inpaint, [image, white])):
        alone, listed = (
            edit(imagen, "a red star", *each, seed=1, **QUICK)
            for each in (given, [[one] for one in given])
        )
        assert np.array_equal(alone, listed)
    assert editing.by_stage(imagen, [], timesteps=3) == []
    first, enlarged, last = editing.by_stage(imagen, "a red star", seeds=[4], **QUICK)
    assert len(first) == len(enlarged) == len(last) == 1
    assert last[0].tobytes() == imagen.sample("a red star", seed=4, **QUICK).tobytes()


def test_a_negative_caption_acts_through_guidance_alone(imagen: Imagen) -> None:
    def sampled(**settings: object) -> bytes:
        return imagen.sample("a red star", seed=1, **QUICK, **settings).tobytes()

    assert sampled(guidance_scale=1) == sampled(guidance_scale=1, negative="a blue star")
    assert sampled(guidance_scale=4) != sampled(guidance_scale=4, negative="a blue star")
    # leading away from the caption itself is no guidance at all
    own = imagen.sample("a red star", seed=1, guidance_scale=4, negative="a red star", **QUICK)
    plain = imagen.sample("a red star", seed=1, guidance_scale=1, **QUICK)
    assert difference(own, plain) < 0.1


def test_a_callback_stops_sampling(imagen: Imagen) -> None:
    seen = []

    def stop(stage: int, step: int, steps: int, _: Tensor) -> bool:
        seen.append((stage, step))
        return (stage, step) == (1, 0)

    with pytest.raises(Stopped, match="step 1 of 3 of stage 1"):
        imagen.sample("a star", callback=stop, **QUICK)
    assert seen == [(0, 0), (0, 1), (0, 2), (1, 0)]


WIDE = Image.new("RGB", (5000, 4))
BLACK, WHITE = (Image.new("L", (32, 32), level) for level in (0, 255))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strength": 0.0}, "`strength` is 0.0"),
        ({"strength": 1.5}, "`strength` is 1.5"),
        ({"masks": [BLACK]}, "black everywhere"),
        ({"masks": [WHITE.resize((8, 8))]}, "mask` is 8 x 8, the image 32 x 32"),
        ({"resample": 0}, "`resample` is 0"),
        (
            {"images": [Image.new("RGB", (5000, 4))], "masks": [Image.new("L", (5000, 4))]},
            "5000 x 4",
        ),
        ({"negative": 3}, "`negative` is 3"),
        ({"images": [WHITE, WHITE]}, "1 masks for 2 images"),
        ({"images": []}, "there is no image"),
        ({"images": "x.png"}, "an image is a str"),
        ({"masks": ["x.png"]}, "an image is a str"),
        ({"images": [Image.new("RGB", (0, 4))]}, "0 x 4"),
    ],
)
def test_what_cannot_be_edited_is_one_line(
    imagen: Imagen, image: Image.Image, change: dict[str, object], words: str
) -> None:
    given = {"images": [image], "masks": [WHITE]} | change
    with pytest.raises(UserError, match=words) as error:
        editing.inpaint(imagen, "a star", **QUICK, **given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_mask_is_white_where_it_looks_white() -> None:
    clear = Image.new("LA", (4, 4), (255, 0))
    clear.putpixel((1, 2), (255, 255))
    deep = Image.fromarray(np.full((4, 4), 300, np.uint16))
    assert editing.as_mask([clear], (4, 4)).nonzero().tolist() == [[0, 0, 2, 1]]
    assert not editing.as_mask([deep], (4, 4)).any()
    bright = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    assert editing.as_mask([bright], (4, 4)).all()
    with pytest.raises(UserError, match="pixels of mode F"):
        editing.as_mask([Image.new("F", (4, 4))], (4, 4))


def test_given_images_of_other_floats_are_the_same_images(
    imagen: Imagen, image: Image.Image
) -> None:
    given = editing.as_tensor([image], (32, 32))
    options = {"seed": 1, "strength": 0.5, **QUICK}
    expected = imagen.sample("a star", init_images=given, **options)
    found = imagen.sample("a star", init_images=given.double(), **options)
    assert found.tobytes() == expected.tobytes()


def test_a_cascade_without_super_resolution_enlarges_nothing(imagen: Imagen) -> None:
    with pytest.raises(UserError, match="none enlarges images"):
        editing.upscale(imagen, "a star", [WHITE], first=2, **QUICK)
    with pytest.raises(UserError, match="an image is a str"):
        editing.image_to_image(imagen, "a star", ["x.png"], **QUICK)  # type: ignore[list-item]
    with pytest.raises(UserError, match="give `init_image` too"):
        imagen.sample("a star", strength=0.5, **QUICK)


def test_one_given_image_is_for_all_and_several_are_one_each(
    imagen: Imagen, image: Image.Image
) -> None:
    other = Image.new("RGB", image.size, "white")
    options = QUICK | {"seeds": [1, 2, 3, 4]}
    four = editing.image_to_image(
        imagen, ["a", "b"], [image, other], 0.02, num_images_per_caption=2, **options
    )
    brightness = [float(np.asarray(each).mean()) for each in four]
    assert min(brightness[2:]) > max(brightness[:2])
    alike = editing.upscale(imagen, ["a"] * 2, [other], seeds=[5, 5], **QUICK)
    assert alike[0].tobytes() == alike[1].tobytes()
    with pytest.raises(UserError, match="`init_images` has 2 images for 3"):
        editing.image_to_image(imagen, ["a", "b", "c"], [image, other], **QUICK)
