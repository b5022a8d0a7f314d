"""What users of other libraries type first: each is answered with what to type here."""

from typing import Any, NoReturn

from minimagen.errors import UserError

OURS = {
    "prompt": "captions",
    "prompts": "captions",
    "num_inference_steps": "timesteps",
    "negative_prompt": "negative",
    "generator": "seed",
    "num_images_per_prompt": "num_images_per_caption",
    "callback_on_step_end": "callback",
    "width": "aspect_ratio",
    "height": "aspect_ratio",
    "torch_dtype": "precision",
    "dtype": "precision",
}
ARGUMENTS = {name: f"give `{own}` instead" for name, own in OURS.items()} | {
    "image": "call minimagen.editing.image_to_image(imagen, captions, images)",
    "mask_image": "call minimagen.editing.inpaint(imagen, captions, images, masks)",
    "return_dict": "leave it out: `sample` returns the images themselves, without `.images`",
}
"""What to do instead, by the name that other libraries have for an argument of ``sample``."""


class Foreign:
    """What the pipelines of diffusers have, and a cascade does not need."""

    def forward(self, *captions: Any, **settings: Any) -> NoReturn:
        """Say what to call: a cascade is sampled from, or its learners are trained."""
        raise UserError(
            "an Imagen is no function: call `sample(captions)`, which returns the images "
            "themselves, without `.images`; or `train` to train it"
        )

    @property
    def scheduler(self) -> NoReturn:
        """Say how to choose a sampler."""
        raise UserError(
            'the sampler is an argument: `sample(captions, sampler="dpm++", timesteps=16)`'
        )

    def half(self) -> NoReturn:
        """Say how to choose the precision."""
        raise UserError(
            'weights stay in float32: give `sample` `precision="bf16"`, or nothing: it is the '
            "default where the device is fast at it"
        )

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> NoReturn:
        """Say how to have one stage at a time on a device."""
        raise UserError(
            'offloading is an argument: `sample(captions, device="cuda")` has one stage at a time '
            "on the device"
        )

    enable_sequential_cpu_offload = enable_model_cpu_offload

    def enable_attention_slicing(self, *_: Any, **__: Any) -> NoReturn:
        """Say what saves memory."""
        raise UserError(
            "attention and decoding need nothing switched on; to save memory give `sample` a "
            'smaller `batch_size`, or `device="cuda"` for one stage at a time'
        )

    enable_xformers_memory_efficient_attention = enable_attention_slicing
    enable_vae_slicing = enable_vae_tiling = enable_attention_slicing

    def set_progress_bar_config(self, *_: Any, **__: Any) -> NoReturn:
        """Say how to switch the progress bar off."""
        raise UserError("the bar is an argument: `sample(captions, progress=False)`")

    def load_lora_weights(self, *_: Any, **__: Any) -> NoReturn:
        """Say how to train a cascade on."""
        raise UserError(
            "there is no LoRA here: minimagen.train(imagen, dataset, config) trains all weights on"
        )
