"""MinImagen: cascaded text-to-image diffusion after Google's Imagen.

The public names are loaded when they are first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Imagen": "minimagen.imagen",
    "ImagenConfig": "minimagen.config",
    "StageConfig": "minimagen.config",
    "DiffusionConfig": "minimagen.config",
    "SamplingConfig": "minimagen.config",
    "UNetConfig": "minimagen.config",
    "TrainingConfig": "minimagen.config",
    "DataConfig": "minimagen.config",
    "UserError": "minimagen.errors",
    "load_dataset": "minimagen.data.open",
    "Sample": "minimagen.sample",
    "ShapesDataset": "minimagen.shapes.dataset",
    "train": "minimagen.training.run",
    "Judge": "minimagen.evaluation.judge",
}

if TYPE_CHECKING:
    from minimagen.config import (
        DataConfig,
        DiffusionConfig,
        ImagenConfig,
        SamplingConfig,
        StageConfig,
        TrainingConfig,
        UNetConfig,
    )
    from minimagen.data.open import load_dataset
    from minimagen.errors import UserError
    from minimagen.evaluation.judge import Judge
    from minimagen.imagen import Imagen
    from minimagen.sample import Sample
    from minimagen.shapes.dataset import ShapesDataset
    from minimagen.training.run import train

__all__ = [
    "DataConfig",
    "DiffusionConfig",
    "Imagen",
    "ImagenConfig",
    "Judge",
    "Sample",
    "SamplingConfig",
    "ShapesDataset",
    "StageConfig",
    "TrainingConfig",
    "UNetConfig",
    "UserError",
    "__version__",
    "load_dataset",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'minimagen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
