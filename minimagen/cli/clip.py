"""``python -m minimagen clip DIR``: what does a trained CLIP know of images it has not seen?"""

from collections.abc import Sequence
from pathlib import Path

from minimagen.checked import PositiveInt
from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.options import CONFIGURED
from minimagen.errors import UserError

OPTIONS = {
    "data": (
        CONFIGURED["DATASET"].but(default=None, shown="that it was trained on"),
        options.CAPTION_COLUMN,
        Option("COUNT", "n", "Images of the test or validation split", PositiveInt, shown="all"),
        Option("TEMPLATES", "te", "Prompts that a class is looked for with, {} for its name, with "
               "| between them", shown="three of general use"),
    ),
    "run": (
        options.DEVICE,
        Option("SHEET", "o", "PNG for the similarity of some images and captions", Path,
               shown="similarity.png in the training directory"),
    ),
}  # fmt: skip
EXAMPLES = """  python -m minimagen clip training_20261128_220000
  python -m minimagen clip training_20261128_220000 --DATASET mnist --COUNT 10000
  python -m minimagen clip training_20261128_220000 --TEMPLATES "a {}|a drawing of {}\""""


def main(argv: Sequence[str]) -> int:
    """Evaluate a CLIP; return the exit code."""
    arguments = Parser(
        "python -m minimagen clip", __doc__ or "", EXAMPLES, OPTIONS,
        DIR="training directory with a CLIP",
    ).parse(options.without_flag(argv))  # fmt: skip
    templates = arguments.TEMPLATES and [each.strip() for each in arguments.TEMPLATES.split("|")]
    for template in templates or ():
        if template.count("{}") != 1:
            raise UserError(f"--TEMPLATES: {template!r} must have one {{}} for the name of a class")
    from minimagen.data.open import open_again
    from minimagen.device import resolve_device
    from minimagen.evaluation.clip import TEMPLATES, evaluate_clip, held_out, similarity_image
    from minimagen.evaluation.trained_on import data_of
    from minimagen.storage.directory import TrainingDirectory
    from minimagen.storage.metadata import save_png
    from minimagen.text.build import load_clip

    directory = TrainingDirectory.open(arguments.dir)
    sheet = directory.results(arguments.SHEET, "similarity.png", "--SHEET, the PNG to write")
    clip = load_clip(directory.path).to(resolve_device(arguments.DEVICE))
    data = data_of(directory.parameters, arguments.DATASET, arguments.CAPTION_COLUMN)
    samples = held_out(open_again(data, clip.config.image_size), arguments.COUNT, data)
    report = evaluate_clip(clip, samples, templates or TEMPLATES)
    for line in report.lines():
        print(line)
    save_png(sheet, similarity_image(report.similarity))
    print(f"similarity of {len(report.shown)} images (rows) and their captions: {sheet}")
    for i, caption in enumerate(report.shown):
        print(f"  {i + 1}: {caption}")
    return 0
