"""MinImagen: cascaded text-to-image diffusion after Google's Imagen."""

__version__ = "0.1.0"
