"""The checked configuration: what a cascade is, how it trains, on what data.

Every value is checked when it is read, every unknown key is an error that names the nearest valid
one, and nothing changes after construction. Keys keep the names known from MinImagen and
imagen-pytorch where the thing is the same; new things have the papers' names.
"""

from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.config.clip import ClipConfig
from minimagen.config.data import DataConfig
from minimagen.config.diffusers import (
    BetasConfig,
    DiffusersConfig,
    DiffusersSamplingConfig,
    DiffusersUNetConfig,
    DiscreteScheduleConfig,
)
from minimagen.config.imagen import ImagenConfig
from minimagen.config.kinds import StageConfig
from minimagen.config.networks import GPTConfig, UNetConfig
from minimagen.config.sizes import Size
from minimagen.config.stages import (
    DiffusionConfig,
    DistilledConfig,
    ErrorKind,
    LossConfig,
    LossWeight,
    Prediction,
    SamplerName,
    SamplingConfig,
    ScheduleConfig,
    Thresholding,
    TokenConfig,
    TokenSamplingConfig,
    TrainingTimes,
)
from minimagen.config.training import LearnerTrainingConfig, TrainingConfig

__all__ = [
    "GPTConfig",
    "AutoencoderConfig",
    "BetasConfig",
    "ClipConfig",
    "DataConfig",
    "DiffusersConfig",
    "DiffusersSamplingConfig",
    "DiffusersUNetConfig",
    "DiffusionConfig",
    "DiscreteScheduleConfig",
    "DistilledConfig",
    "ErrorKind",
    "ImagenConfig",
    "LossConfig",
    "LossWeight",
    "Prediction",
    "SamplerName",
    "SamplingConfig",
    "ScheduleConfig",
    "Size",
    "StageConfig",
    "LearnerTrainingConfig",
    "Thresholding",
    "TokenConfig",
    "TokenSamplingConfig",
    "TrainingConfig",
    "TrainingTimes",
    "UNetConfig",
]
