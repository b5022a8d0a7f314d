"""``python -m minimagen reconstruct DIR``: what does an autoencoder leave of images?"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimagen.checked import PositiveInt
from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.options import CONFIGURED, IMG_SIDE_LEN
from minimagen.config import DataConfig, Size
from minimagen.config.data import CAPTION_COLUMN
from minimagen.errors import UserError

if TYPE_CHECKING:
    from minimagen.storage.directory import TrainingDirectory

ON_SHEET = 32
OPTIONS = {
    "data": (
        CONFIGURED["DATASET"].but(default=None, shown="that it was trained on"),
        options.CAPTION_COLUMN,
        IMG_SIDE_LEN.but(help="Side of the images in px", shown="that it was trained at"),
        Option("COUNT", "n", "Images of the test or validation split", PositiveInt, 512),
    ),
    "run": (
        options.DEVICE,
        Option("SHEET", "o", "PNG for images and what becomes of them", Path,
               shown="reconstructions.png in the training directory, or here"),
        Option("DIFFUSERS", "df", "New folder for the autoencoder as diffusers reads it", Path,
               shown="none"),
    ),
}  # fmt: skip
EXAMPLES = """  python -m minimagen reconstruct training_20261128_220000
  python -m minimagen reconstruct training_20261128_220000 --DATASET my_images
  python -m minimagen reconstruct stabilityai/sd-vae-ft-mse --DATASET shapes --IMG_SIDE_LEN 256"""


def main(argv: Sequence[str]) -> int:
    """Reconstruct images; return the exit code."""
    arguments = Parser(
        "python -m minimagen reconstruct", __doc__ or "", EXAMPLES, OPTIONS,
        DIR="training directory with an autoencoder, folder of diffusers', or owner/name@revision",
    ).parse(options.without_flag(argv))  # fmt: skip
    given = Path(arguments.dir)
    if not (given / "parameters").is_dir() and arguments.DATASET is None:
        raise UserError(f"{given} does not say what it was trained on: give --DATASET")
    from minimagen.autoencoders.build import load
    from minimagen.autoencoders.files import find_folder, save_folder
    from minimagen.data.loading.reading import stack_images
    from minimagen.data.open import open_again
    from minimagen.device import resolve_device
    from minimagen.evaluation.clip import held_out
    from minimagen.evaluation.reconstruct import reconstruct
    from minimagen.images import to_model_space, to_pil
    from minimagen.storage.directory import TrainingDirectory, new_output
    from minimagen.storage.image_files import contact_sheet
    from minimagen.storage.metadata import save_png

    directory = TrainingDirectory(find_folder(arguments.dir))
    trained = directory.has_parameters
    autoencoder = load(arguments.dir).to(resolve_device(arguments.DEVICE))
    if arguments.DIFFUSERS is not None and autoencoder.codes:
        raise UserError(
            "--DIFFUSERS: diffusers has no autoencoder of these tokens, only kl and tiny"
        )
    diffusers = arguments.DIFFUSERS and new_output(arguments.DIFFUSERS, "", "--DIFFUSERS")
    data, buckets = _data(directory, arguments)
    side = arguments.IMG_SIDE_LEN
    size = (side, side) if side else autoencoder.config.image_size
    if any(n % autoencoder.factor for n in size):
        raise UserError(f"--IMG_SIDE_LEN {side} is not divisible by {autoencoder.factor}")
    samples = held_out(open_again(data, size, buckets), arguments.COUNT, data)
    report = reconstruct(autoencoder, samples)
    for line in report.lines():
        print(line)
    first = samples[:ON_SHEET]
    real = to_pil(to_model_space(stack_images(first)))
    where = given if trained and given.is_dir() else Path()
    sheet = arguments.SHEET or where / "reconstructions.png"
    captions = [sample.caption for sample in first]
    save_png(sheet, contact_sheet(captions, [real, to_pil(report.images[:ON_SHEET])]))
    print(f"images, and what becomes of them: {sheet}")
    if diffusers is not None:
        save_folder(autoencoder, diffusers)
        print(f"as diffusers reads it: {diffusers}")
    return 0


def _data(
    directory: "TrainingDirectory", arguments: Namespace
) -> tuple[DataConfig, tuple[Size, ...]]:
    """Return what to measure on, and the sizes of the buckets that a training divided it by."""
    from minimagen.config.cascade_sizes import trained_sizes
    from minimagen.evaluation.trained_on import data_of
    from minimagen.storage.directory import read_imagen_config

    name, column = arguments.DATASET, arguments.CAPTION_COLUMN
    if not directory.has_parameters:
        return DataConfig(dataset=name, caption_column=column or CAPTION_COLUMN), ()
    data = data_of(directory.parameters, name, column)
    return data, trained_sizes(read_imagen_config(directory.parameters), data)
