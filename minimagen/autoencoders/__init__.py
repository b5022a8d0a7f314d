"""Between images and what a diffusion stage denoises."""
