"""The stages of a cascade: a union of configurations with a ``kind`` each."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from minimagen.config.diffusers import DiffusersConfig
from minimagen.config.stages import DiffusionConfig, DistilledConfig, TokenConfig
from minimagen.errors import UserError, did_you_mean


def read_stage(
    values: Any, where: str
) -> DiffusionConfig | DistilledConfig | DiffusersConfig | TokenConfig:
    """Check the values of one stage (parsed JSON); a UserError names ``where`` and the key.

    Files from before there were kinds have none, but ``distilled_steps``: null or a number.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a JSON object of a stage's settings")
    values = dict(values)
    if (steps := values.pop("distilled_steps", None)) is not None:
        values = {"kind": "distilled", "steps": steps} | values
    kinds: dict[str, type[DiffusionConfig | TokenConfig]] = {
        "diffusion": DiffusionConfig,
        "distilled": DistilledConfig,
        "diffusers": DiffusersConfig,
        "tokens": TokenConfig,
    }
    kind = values.get("kind") or "diffusion"
    if kind not in kinds:
        raise UserError(
            f"{where}: kind {kind!r} is not one of {', '.join(kinds)}{did_you_mean(kind, kinds)}"
        )
    return kinds[kind].read(values, where)


def _read(values: Any) -> Any:
    return read_stage(values, "a stage") if isinstance(values, dict) else values


StageConfig = Annotated[
    DiffusionConfig | DistilledConfig | DiffusersConfig | TokenConfig, BeforeValidator(_read)
]
"""A stage of any kind; ``read_stage`` chooses the kind."""
