"""The model card of a published cascade: data, figures with their numbers of samples, limits."""

from pathlib import Path
from typing import NamedTuple

from minimagen.config import ImagenConfig

CARD = """# {name}

{sizes} px, {parameters:.1f} M parameters; text encoder `{encoder}`. A text-to-image cascade of
[minimagen-cascade](https://pypi.org/project/minimagen-cascade): weights and configuration, no code.

```python
from minimagen import Imagen

imagen = Imagen.from_pretrained("{name}")
imagen.sample({caption!r}).save("image.png")
```

## Data

{data}

## Training

{training}

## Figures

{figures}

## Limits

It generates what its training captions describe, and little else. What it copies of its training
images is only known where the figures say so. Images of people, of brands and of works under
copyright in the training data can appear in what it generates: see the data's licenses.
"""
FRONT = """---
library_name: minimagen-cascade
pipeline_tag: text-to-image
tags: [imagen, diffusion, cascade]
---
"""
NO_DATA = "Not stated."
NO_FIGURES = (
    "Not measured: `python -m minimagen evaluate DIR`, of the training directory, measures them "
    "for the next card."
)
OTHER_WEIGHTS = (
    "Not measured: the evaluation is not of exactly these weights. `python -m minimagen evaluate "
    "DIR` measures them for the next card."
)


class Facts(NamedTuple):
    """What a card says that the weights do not show."""

    caption: str = "a caption"
    data: str = NO_DATA
    training: str = NO_DATA
    figures: str = NO_FIGURES


NO_FACTS = Facts()


def card(name: str, config: ImagenConfig, parameters: int, facts: Facts) -> str:
    """Return the card of a cascade as Markdown; ``parameters`` is the number of its weights."""
    sizes = " to ".join(f"{width}x{height}" for height, width in config.image_sizes)
    return FRONT + CARD.format(
        name=name,
        sizes=sizes,
        parameters=parameters / 1e6,
        encoder=Path(config.text_encoder_name).name,
        **facts._asdict(),
    )
