"""Generate images with a trained cascade: ``python examples/write_your_own_inference.py DIR``."""

import sys

from minimagen import Imagen


def main(directory: str, captions: list[str]) -> None:
    imagen = Imagen.from_directory(directory)
    images = imagen.sample(captions, seed=7)  # and guidance_scale=3.0, or one value per stage
    for i, (caption, image) in enumerate(zip(captions, images, strict=True)):
        image.save(f"own_{i}.png")
        print(f"own_{i}.png: {caption}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ["a large red star on a blue background"])
