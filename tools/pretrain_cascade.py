"""Train a bundled cascade a given time or number of steps, going on from its weights so far.

    python tools/pretrain_cascade.py emoji --minutes 60                     starts it, or goes on
    python tools/pretrain_cascade.py emoji --minutes 60 --parameters DIR    another recipe
    python tools/pretrain_cascade.py scenes --steps 6000,2000 --stages 1
    python tools/pretrain_cascade.py emoji --minutes 60 --resume training_20261128_220000
    python tools/pretrain_cascade.py emoji --bundle training_20261128_220000  what it has learned
    python tools/pretrain_cascade.py emoji                                  only the card anew

The cascade lies in ``pretrained/<name>``: a training directory without checkpoints, its weights in
eight bits, with ``runs.jsonl`` (one line per run) and a card. A run trains in a directory of
its own (``--work``), and what is bundled changes only after the run has ended. Each run draws other
images and noise than the ones before. The figures of the card are the newest rows of
``python -m benchmarks.bundled`` for these weights.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.bundled import figures_of, fingerprint_of
from benchmarks.composed_emoji import SIDE, ComposedEmoji
from benchmarks.measuring import machine
from benchmarks.real_data import folder
from minimagen import Imagen, ShapesDataset, train
from minimagen.config.recipes import TEXT_ENCODER, recipe_for
from minimagen.data.dataset import Dataset
from minimagen.errors import UserError
from minimagen.networks.unet import count_parameters
from minimagen.storage.checkpoint import load_weights, save_weights
from minimagen.storage.directory import (
    Parameters,
    TrainingDirectory,
    read_imagen_config,
    read_parameters,
    stamped,
    write_parameters,
)
from minimagen.storage.pretrained import load_stage
from minimagen.storage.quantized import quantized
from minimagen.training.interruption import Interrupted

ROOT = Path(__file__).parents[1]
CARDS = Path(__file__).parent / "cards"
RECIPE_MINUTES = 60.0
SCENES_DIM, SCENES_STEPS, SCENES_EMA = 48, 16, 0.995
RUNS = "runs.jsonl"
MINUTES = "minutes.txt"  # of a run, one line for each time that it went on
LARGEST_FILE, LARGEST_CASCADE = 16e6, 20e6  # bytes; two cascades are bundled
CAPTIONS = {
    "emoji": (
        "a red apple, noto style, on a blue background",
        "a red apple, fluent3d style, on a white background",
        "a grinning face, noto style, on a pink background",
        "a grinning face, fluent3d style",
        "a rocket, fluent3d style, on a black background",
        "a cat face on a green background, noto style",
        "an octopus, noto style, on a cyan background",
        "a cactus, fluent3d style, on an orange background",
        "a guitar, noto style",
        "a pizza, fluent3d style, on a purple background",
        "a yellow heart, noto style, on a red background",
        "a robot, fluent3d style, on a yellow background",
    ),
    "scenes": (
        "a red star left of a blue ring on a white background",
        "a blue ring left of a red star on a white background",
        "a green heart above an orange square on a black background",
        "an orange square above a green heart on a black background",
        "a yellow moon inside a purple circle on a cyan background",
        "a white cross inside a red heart on a plain pink background",
        "three green hearts on a black background",
        "five yellow stars on a blue background",
        "two purple squares on an orange background",
        "a red digit 7 on a white background",
        "the letter K in yellow on a purple background",
        "a cyan letter B on a black background",
    ),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=tuple(CAPTIONS))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", help="of all stages, or one number each: 6000,2000")
    parser.add_argument("--stages", help="such as 1 or 0,1 [all]")
    parser.add_argument(
        "--parameters", type=Path, help="directory of them [those of --out, a recipe]"
    )
    parser.add_argument("--data", type=Path, default=folder() / "emoji", help="folder of the emoji")
    parser.add_argument("--out", type=Path, help="the bundled cascade [pretrained/<name>]")
    parser.add_argument("--work", type=Path, help="where the run trains [training_<time>]")
    parser.add_argument("--resume", type=Path, help="go on with an interrupted run, in place")
    parser.add_argument(
        "--bundle", type=Path, help="bundle a run that has ended, and train nothing"
    )
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    options.out = options.out or ROOT / "pretrained" / options.name
    options.stages = options.stages and [int(i) for i in options.stages.split(",")]
    return options


def parameters_of(options: argparse.Namespace, run: int) -> Parameters:
    """Return what a run trains: the cascade, for how long, with the seed of the run."""
    if options.resume:
        return read_parameters(options.resume / "parameters")
    known = options.out / "parameters"
    if options.parameters is None and not known.is_dir():
        imagen, training, data = first_parameters(options.name)
    else:
        imagen, training, data = read_parameters(options.parameters or known)
    steps = options.steps and [int(n) for n in options.steps.split(",")]
    change = {
        "minutes": options.minutes,
        "revisions": (),
        "steps": steps[0] if steps and len(steps) == 1 else steps,
        "epochs": None,
        "seed": run,
        "sample_captions": CAPTIONS[options.name],
    }
    return Parameters(imagen, training.replace(**change), data)


def first_parameters(name: str) -> Parameters:
    """Return the recipe for an hour of emoji; for scenes the demo's cascade, wider and for longer.

    Scenes keep the demo's text encoder, which knows best what belongs to which object, and its
    small first stage, which sees three times as many images in the same time.
    """
    imagen, training, data = read_parameters(ROOT / "parameters")
    if name == "emoji":
        recipe = recipe_for(SIDE, None, RECIPE_MINUTES)
        imagen = imagen.replace(
            image_sizes=recipe.image_sizes, stages=recipe.stages, text_encoder_name=TEXT_ENCODER
        )
        return Parameters(imagen, training.replace(learners=recipe.training, steps=1), data)
    base, enlarging = imagen.stages
    base = base.replace(
        unet=base.unet.replace(dim=SCENES_DIM),
        sampling=base.sampling.replace(timesteps=SCENES_STEPS),
    )
    learners = tuple(each.replace(ema_decay=SCENES_EMA) for each in training.learners)
    imagen = imagen.replace(stages=(base, enlarging))
    return Parameters(imagen, training.replace(learners=learners, steps=1), data)


def dataset_of(options: argparse.Namespace, run: int) -> Dataset:
    """Return the images to train on: every run draws others of its own."""
    if options.name == "emoji":
        return ComposedEmoji(options.data)
    return ShapesDataset("train", "scenes", seed=run)


def pretrain(options: argparse.Namespace) -> None:
    """Train one run and bundle what it has learned."""
    run = len(runs_of(options.out))
    imagen_config, training, data = parameters_of(options, run)
    imagen = Imagen(imagen_config)
    go_on_from(TrainingDirectory(options.out), imagen)
    resume = TrainingDirectory.open(options.resume) if options.resume else None
    dataset = dataset_of(options, run)
    work, started = options.resume or options.work or stamped("training"), time.time()
    try:
        directory = train(
            imagen,
            dataset,
            training,
            data=data,
            output=work,
            stages=options.stages,
            device=options.device,
            resume=resume,
        )
    except Interrupted:
        note_minutes(work, started)
        raise
    note_minutes(work, started)
    bundle(directory, options)


def go_on_from(bundled: TrainingDirectory, imagen: Imagen) -> None:
    """Give a cascade the weights that are bundled; its recipe may be another one than theirs."""
    if not bundled.parameters.is_dir():
        return
    before = Imagen(read_imagen_config(bundled.parameters))
    for i, (stage, own) in enumerate(zip(before.stages, imagen.stages, strict=False)):
        path = bundled.weights(stage.name)
        if path.is_file():
            load_stage(stage, path, before.identity(i))
            try:
                own.load_state_dict(stage.state_dict())
            except RuntimeError:  # another network
                raise UserError(f"{path} was trained with another configuration") from None


def bundle(directory: TrainingDirectory, options: argparse.Namespace) -> None:
    """Take over what a run has learned, with a row on it."""
    names = read_parameters(directory.parameters).imagen.learner_names
    row = run_row(directory, [names[i] for i in options.stages or range(len(names))])
    export(directory, TrainingDirectory(options.out))
    with (options.out / RUNS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def note_minutes(work: Path, started: float) -> None:
    """Append the minutes since ``started``; a run that is resumed has several lines."""
    with (work / MINUTES).open("a", encoding="utf-8") as file:
        file.write(f"{(time.time() - started) / 60}\n")


def by_steps(parameters: Parameters) -> Parameters:
    """Return the parameters with the steps of each stage instead of what the clock made of them."""
    training = parameters.training
    steps = [training.steps_of(i) for i in range(len(training.learners))]
    if not all(steps):
        return parameters  # a stage is not trained yet
    lasting = {"steps": steps, "epochs": None, "minutes": None, "revisions": ()}
    return parameters._replace(training=training.replace(**lasting))


def run_row(directory: TrainingDirectory, names: list[str]) -> dict[str, Any]:
    """Return what a run did: steps and images of each of the stages that it trained."""
    minutes = sum(map(float, (directory.path / MINUTES).read_text("utf-8").split()))
    training = read_parameters(directory.parameters).training
    steps = {name: load_weights(directory.weights(name)).state["step"] for name in names}
    batch = {name: training.batch_size_of(int(name.removeprefix("unet_"))) for name in names}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "minutes": round(minutes, 1),
        "device": machine()["name"],
        "steps": steps,
        "images": {name: steps[name] * batch[name] for name in names},
        "seed": training.seed,
    }


def export(source: TrainingDirectory, target: TrainingDirectory) -> None:
    """Write parameters, captions and weights, in eight bits.

    Raises:
        UserError: the weights do not fit half precision, or are too large to be bundled.
    """
    for folder_ in (target.parameters, target.state_dicts, target.samples):
        folder_.mkdir(parents=True, exist_ok=True)
    parameters = read_parameters(source.parameters)
    if parameters.imagen.first_stage:
        raise UserError(
            "a cascade with a CLIP or an autoencoder cannot be bundled: eight bits change "
            "their fingerprints, which its stages know"
        )
    for i in range(len(parameters.imagen.stages)):
        name = f"unet_{i}"
        if not source.weights(name).is_file():
            continue  # a stage that no run has trained so far
        tensors, header = load_weights(source.weights(name))
        packed = quantized(tensors)
        if not all(torch.isfinite(x).all() for x in packed.values()):
            raise UserError(f"{source.weights(name)} is not finite in half precision")
        save_weights(target.weights(name), packed, header)
    write_parameters(target.parameters, by_steps(parameters))
    target.sample_captions.write_text(
        "\n".join(parameters.training.sample_captions) + "\n", "utf-8"
    )
    sizes = [path.stat().st_size for path in target.state_dicts.glob("*.safetensors")]
    if max(sizes) > LARGEST_FILE or sum(sizes) > LARGEST_CASCADE:
        raise UserError(
            f"{target.state_dicts} has files of up to {max(sizes) / 1e6:.1f} MB, together "
            f"{sum(sizes) / 1e6:.1f} MB: choose smaller networks (at most "
            f"{LARGEST_FILE / 1e6:.0f} MB a file, {LARGEST_CASCADE / 1e6:.0f} MB together)"
        )


def runs_of(out: Path) -> list[dict[str, Any]]:
    """Return the rows of all runs so far."""
    path = out / RUNS
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if path.is_file()
        else []
    )


def write_card(name: str, out: Path) -> None:
    """Write README.md from the template, the runs and the newest figures; copy the licenses."""
    imagen = Imagen.from_directory(out)
    stages = [
        f"{size[0]} px ({count_parameters(stage) / 1e6:.1f} M parameters)"
        for size, stage in zip(imagen.config.image_sizes, imagen.stages, strict=True)
    ]
    runs = [
        f"| {row['date']} | {row['minutes']:g} | {row['device']} | {_per_stage(row['steps'])} | "
        f"{_per_stage(row['images'])} |"
        for row in runs_of(out)
    ]
    template = (CARDS / f"{name}.md").read_text("utf-8")
    card = template.format(
        stages=f"{'Stages' if len(stages) > 1 else 'One stage'} of {' and '.join(stages)}",
        encoder=imagen.config.text_encoder_name,
        captions="\n".join(f"    {caption}" for caption in CAPTIONS[name]),
        runs="\n".join(runs),
        figures=figures_of(name, fingerprint_of(out)),
    )
    (out / "README.md").write_text(card, "utf-8")
    if (CARDS / f"{name}_licenses.txt").is_file():
        (out / "LICENSES.txt").write_bytes((CARDS / f"{name}_licenses.txt").read_bytes())


def _per_stage(numbers: dict[str, int]) -> str:
    return ", ".join(f"{n:,} ({name})" for name, n in numbers.items())


def main(argv: list[str] | None = None) -> None:
    """Train if a length is given, then write the card."""
    options = parse(argv)
    if options.bundle:
        bundle(TrainingDirectory.open(options.bundle), options)
    elif options.minutes or options.steps or options.resume:
        pretrain(options)
    write_card(options.name, options.out)
    print(f"{options.out}: {options.out / 'README.md'}")


if __name__ == "__main__":
    main()
