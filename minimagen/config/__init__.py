"""The checked configuration: what a cascade is, how it trains, on what data.

Every value is checked when it is read, every unknown key is an error that names the nearest valid
one, and nothing changes after construction. Keys keep the names known from MinImagen and
imagen-pytorch where the thing is the same; new things have the papers' names.
"""

from minimagen.config.data import DataConfig
from minimagen.config.imagen import ImagenConfig
from minimagen.config.networks import UNetConfig
from minimagen.config.sizes import Size
from minimagen.config.stages import (
    DiffusionConfig,
    DistilledConfig,
    LossConfig,
    LossWeight,
    Prediction,
    SamplerName,
    SamplingConfig,
    ScheduleConfig,
    StageConfig,
    Thresholding,
)
from minimagen.config.training import StageTrainingConfig, TrainingConfig

__all__ = [
    "DataConfig",
    "DiffusionConfig",
    "DistilledConfig",
    "ImagenConfig",
    "LossConfig",
    "LossWeight",
    "Prediction",
    "SamplerName",
    "SamplingConfig",
    "ScheduleConfig",
    "Size",
    "StageConfig",
    "StageTrainingConfig",
    "Thresholding",
    "TrainingConfig",
    "UNetConfig",
]
