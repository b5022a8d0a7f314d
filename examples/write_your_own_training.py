"""Train a cascade on your own data: ``python examples/write_your_own_training.py``."""

import sys

from minimagen import Imagen, TrainingConfig, load_dataset, train


def main(parameters: str, data: str, output: str, steps: int) -> None:
    imagen = Imagen.from_parameters(parameters)
    dataset = load_dataset(data, imagen.config.image_sizes[-1])  # "shapes", or a folder
    config = TrainingConfig(batch_size=16, steps=steps, learners=[{"optim_lr": 1e-3}])
    train(imagen, dataset, config, output=output)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    main(
        given.get(0, "parameters"),
        given.get(1, "shapes"),
        given.get(2, "training_mine"),
        int(given.get(3, 1000)),
    )
