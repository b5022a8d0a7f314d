# ruff: noqa: D100, D103, E501
# The cells of examples/demo.ipynb; `python tools/make_tour.py DIR` writes it.
# %% [markdown]
# # From noise to an image
#
# The chapters of [docs/tour.md](../docs/tour.md), to run and to change. They take about two minutes on two CPU cores.
# The images are those of `pretrained/emoji`, one stage of 64 x 64 pixels. What super-resolution does is shown with
# `pretrained/scenes`, which has two stages. Any other directory that `main.py` or `train.py` has made can be named in
# the next cell.
# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from minimagen import Imagen
from minimagen.editing import as_tensor, by_stage, film, sweep, upscale
from minimagen.images import to_pil
from minimagen.networks.attention_maps import observed_attention

DIRECTORY = Path(os.environ.get("DIRECTORY", "../pretrained/emoji"))
TWO_STAGES = Path(os.environ.get("TWO_STAGES", "../pretrained/scenes"))
STEPS = int(os.environ.get("STEPS", 16))  # fewer are faster, and blurred
CAPTION = "a red apple, noto style, on a blue background"
imagen = Imagen.from_directory(DIRECTORY)


def show(images, labels):
    figure, axes = plt.subplots(1, len(images), figsize=(1.3 * len(images), 1.7), squeeze=False)
    for axis, image, label in zip(axes[0], images, labels, strict=True):
        axis.imshow(image)
        axis.set_title(label, fontsize=8)
        axis.axis("off")
    plt.show()


# %% [markdown]
# ## A caption in, an image out
#
# The same seed gives the same image. Without one, each call draws a new seed.
# %%
images = imagen.sample([CAPTION] * 4, seed=0, timesteps=STEPS, progress=False)
show(images, ["seed 0", "seed 1", "seed 2", "seed 3"])
# %% [markdown]
# ## What noise does
#
# x_t = alpha x_0 + sigma eps. At t = 0 all is image, at t = 1 all is noise. The network is trained to guess x_0 from x_t.
# %%
x_0 = 2 * imagen.sample([CAPTION], seed=0, timesteps=STEPS, output_type="pt", progress=False) - 1
eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
times = torch.arange(11) / 10
alpha, sigma, log_snr = imagen.stages[0].schedule.level(times)
noised = [to_pil(a * x_0 + s * eps)[0] for a, s in zip(alpha, sigma, strict=True)]
show(noised, [f"t = {t:.1f}\nlog-SNR {snr:.1f}" for t, snr in zip(times, log_snr, strict=True)])
# %% [markdown]
# ## A film of the denoising
#
# In each step the network guesses the whole image. The first guess is an average of all that the caption could mean: of
# an emoji that the network knows by heart, nearly the image itself.
# %%
frames = film(imagen, CAPTION, seed=0, timesteps=STEPS // 2, progress=False)
show(
    [frame.image for frame in frames], [f"step {frame.step + 1}" for frame in frames[:-1]] + ["end"]
)
# %% [markdown]
# ## What each stage does
#
# The base decides what is to be seen, in few pixels. Enlarging its image by interpolation only blurs it.
# Super-resolution has seen sharp images, and makes sharp edges of the same shapes.
# %%
cascade = Imagen.from_directory(TWO_STAGES)
scene = "a red star left of a blue ring on a white background"
stages = by_stage(cascade, [scene], seed=0, timesteps=[STEPS, None])
show([images[0] for images in stages], ["base", "interpolation", "super-resolution"])
# %% [markdown]
# ## Noise augmentation
#
# Super-resolution is trained on small images with a little noise, so that it does not copy every fault of the base.
# `aug_level` is the time t of this noise. Above: the small image, noised. Below: what super-resolution makes of it.
# This cascade was trained with levels up to 0.1.
# %%
(small,), levels = stages[0], [0.0, 0.05, 0.1, 0.2]
names = [f"aug_level {t:g}" for t in levels]
x = as_tensor(small, (small.height, small.width))
eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
alpha, sigma, _ = cascade.stages[1].aug_schedule.level(torch.tensor(levels))
show([to_pil(a * x + s * eps)[0] for a, s in zip(alpha, sigma, strict=True)], names)
large = [upscale(cascade, scene, small, aug_level=t, seed=0, progress=False) for t in levels]
show(large, names)
# %% [markdown]
# ## No caption
#
# In training some captions are dropped: one learned vector, the null token, stands for "no caption". So the same
# network also guesses an image without knowing what it should show: a guidance scale of 0 is that guess alone. The
# same three seeds, with the caption and without.
# %%
settings = {"timesteps": STEPS, "guidance_interval": (0.0, 1.0), "progress": False}
cells = sweep(imagen, CAPTION, {"guidance_scale": [1.0, 0.0], "seed": [0, 1, 2]}, **settings)
names = {1.0: "caption", 0.0: "null token"}
show([image for _, image in cells], [names[cell["guidance_scale"]] for cell, _ in cells])
# %% [markdown]
# ## Guidance
#
# Guidance makes both guesses, and exaggerates their difference: 1 is the guess with the caption alone.
# `guidance_interval=(0, 1)` guides at all times.
# %%
settings |= {"seed": 1}
cells = sweep(imagen, CAPTION, {"guidance_scale": [1.0, 3.0, 8.0]}, **settings)
show([image for _, image in cells], [f"guidance {cell['guidance_scale']:g}" for cell, _ in cells])
# %% [markdown]
# ## Thresholding
#
# Strong guidance leaves the range of colors. Static thresholding clips every guess; dynamic thresholding divides it by
# its largest values: colors do not burn, and white turns gray.
# %%
settings |= {"guidance_scale": 8.0}
cells = sweep(imagen, CAPTION, {"thresholding": ["none", "static", "dynamic"]}, **settings)
show([image for _, image in cells], [cell["thresholding"] for cell, _ in cells])
# %% [markdown]
# ## Where the network looks
#
# The text encoder cuts the caption into tokens. For each token, the share of attention that each place of the image
# pays to it, at the finest layers that read text. Each map has its own colors: yellow is its largest share, violet its
# least. "red" lies on the apple.
# %%
with observed_attention(imagen.stages[0]) as maps:
    image = imagen.sample(CAPTION, seed=0, timesteps=STEPS, guidance_scale=1.0, progress=False)
finest = max(each.shape[-1] for each in maps)
mean = torch.stack([each[0] for each in maps if each.shape[-1] == finest]).mean(0)
pieces = imagen.text_encoder.pieces(CAPTION)
show([image, *mean[: len(pieces)]], ["image", *pieces])
# %% [markdown]
# ## Further
#
# `imagen.sample` takes everything that [docs/sampling.md](../docs/sampling.md) lists, and
# `minimagen/editing.py` begins with images instead of noise. The words are in
# [docs/glossary.md](../docs/glossary.md).
