"""Compute the tables of docs/scale.md: what the paper's cascade costs, and where it breaks.

    python tools/scale_table.py            # print the page
    python tools/scale_table.py --write    # write the tables into docs/scale.md, and the dry run of
                                           # the preset for eight GPUs into its README.md

Parameters, memory and FLOPs are those of ``train.py --DRY_RUN``; everything else follows from them
and from the assumptions below, each of which a flag changes (``--price 4``). No number of the page
is typed by hand: text between ``<!-- name -->`` and ``<!-- end -->`` is replaced.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "scale.md"
PRESET = ROOT / "parameters" / "imagen_64_256_1024"
SMALLER, SMALLER_GPUS = ROOT / "parameters" / "imagen_300m_64_256", 8
SMALLER_PAGE = SMALLER / "README.md"
SIZES = (10**6, 10**8, 10**9)  # images
DAY = 86400
RECOMPUTED = 4 / 3  # forward passes of a step that keeps no activations, against one that does


def assumed(value: float, why: str) -> Any:
    """Return a field with its reason."""
    return field(default=value, metadata={"why": why})


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of the tables beside the dry run. GB = 1e9 bytes."""

    price: float = assumed(2.5, "dollars per GPU and hour; rented H100s cost 2 to 4 (2026)")
    peak: float = assumed(989e12, "FLOP/s of one GPU: H100 SXM, bf16, dense, by its data sheet")
    mfu: float = assumed(0.2, "share of it that training reaches; one H200: 0.21 with `--COMPILE`")
    gpus: float = assumed(256, "GPUs per stage; the paper had 256 TPU v4 chips for the base")
    memory: float = assumed(80e9, "bytes of one GPU")
    usable: float = assumed(0.85, "share of it for states and activations")
    tokens: float = assumed(20, "mean tokens of a caption, as in alt texts of the web")
    encoder: float = assumed(4.76e9, "parameters of T5-XXL's encoder")
    bytes_token: float = assumed(8192, "bytes of a token's embedding: 4096 channels in bf16")
    bytes_pixel: float = assumed(0.3, "bytes per pixel of a JPEG of quality 90")
    side: float = assumed(1024, "stored side of the images, pixels; one set for all stages")
    shard: float = assumed(1000, "images in a tar shard, as `data download` writes it")
    list_row: float = assumed(150, "bytes of a row of the stored list: file name and caption")
    node: float = assumed(30e12, "bytes of NVMe in one node of 8 GPUs")
    network: float = assumed(25e9, "bytes/s of a node's network: 200 Gbit/s")


@dataclass(frozen=True)
class Stage:
    """One stage, from the dry run and its own settings; memory in bytes, FLOPs of one image."""

    name: str
    parameters: float
    states: float
    activations: float
    forward: float
    batch: float
    steps: float

    def training_flops(self) -> float:
        """Return the FLOPs of the whole training: forward and backward are three forwards."""
        return 3 * self.forward * self.batch * self.steps


def stages(preset: Path = PRESET) -> list[Stage]:
    """Measure a preset on the meta device, and its last stage once more without crops."""
    from minimagen.networks import cost
    from minimagen.storage.directory import read_parameters
    from minimagen.text.build import build

    parameters = read_parameters(preset)
    config, training = parameters.imagen, parameters.training
    width = build(config.text_encoder_name, config.max_num_words).embed_dim
    sizes: list[Any] = [None, *config.image_sizes]
    asked = list(enumerate(config.stages))
    asked.append((len(asked) - 1, config.stages[-1].replace(crop=None)))
    steps = training.steps if isinstance(training.steps, tuple) else (training.steps,) * len(sizes)
    found = []
    for i, stage in asked:
        size, low = sizes[i + 1], sizes[i]
        measured = cost.measure(stage, size, low, (config.max_num_words, width))
        cut = f", crops of {stage.crop}" if stage.crop else ""
        found.append(
            Stage(
                f"{low[0] if low else 'noise'} -> {size[0]}{cut}",
                measured.parameters,
                4 * cost.TRAINING_COPIES * measured.parameters,
                measured.activations / 2,  # bf16
                measured.training_flops + measured.text_flops,  # of captions as long as they may be
                training.batch_size_of(i),
                steps[i] or 0,
            )
        )
    return found


def scaled(number: float, unit: str) -> str:
    """Return a number with two or three digits and a prefix of a thousand."""
    for power, prefix in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if number >= power:
            return f"{number / power:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def grouped(number: float) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{number:,.0f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; its first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def columns(names: Sequence[str], rows: dict[str, list[str]]) -> str:
    """Return a table of one column per name."""
    return markdown([["", *names], *([name, *cells] for name, cells in rows.items())])


def seconds_per_step(a: Assumptions, stage: Stage) -> float:
    """Return the seconds of one step of all GPUs together: three forward passes."""
    return stage.training_flops() / stage.steps / (a.gpus * a.peak * a.mfu)


def fitting(a: Assumptions, stage: Stage, gpus: float) -> int:
    """Return how many images' activations fit a GPU beside its share of the states."""
    free = a.usable * a.memory - stage.states / gpus
    return max(0, int(free / stage.activations))


def accumulation(a: Assumptions, stage: Stage) -> str:
    """Return the smallest power of two of micro-batches that fit."""
    images, fit = stage.batch / a.gpus, fitting(a, stage, a.gpus)
    if not fit:
        return "none: recompute"
    number = 1
    while images / number > fit:
        number *= 2
    return f"{number}"


def stage_table(a: Assumptions, all_stages: Sequence[Stage]) -> str:
    """Return the table of memory, compute, time and cost of every stage."""
    rows: dict[str, list[str]] = {}
    for stage in all_stages:
        days = seconds_per_step(a, stage) * stage.steps / DAY
        hours = 24 * days * a.gpus
        cells = {
            "parameters": scaled(stage.parameters, ""),
            "states (weights, gradients, AdamW, EMA; fp32)": scaled(stage.states, "B"),
            f"of them on each of {a.gpus:.0f} GPUs (`--FSDP`)": scaled(stage.states / a.gpus, "B"),
            "activations of one image, bf16": scaled(stage.activations, "B"),
            "images that fit a GPU at once, states not divided": f"{fitting(a, stage, 1)}",
            "the same, states divided by `--FSDP`": f"{fitting(a, stage, a.gpus)}",
            "images per GPU and step": f"{stage.batch / a.gpus:.3g}",
            "resulting `--ACCUM_ITER`": accumulation(a, stage),
            "forward FLOPs of one image": scaled(stage.forward, "FLOP"),
            "FLOPs to train": scaled(stage.training_flops(), "FLOP"),
            "seconds per step": f"{seconds_per_step(a, stage):.2g}",
            "GPU-hours": grouped(hours),
            "days": f"{days:.3g}",
            "dollars": grouped(hours * a.price),
            "with `--ACTIVATION_CHECKPOINTING`, days": f"{days * RECOMPUTED:.3g}",
        }
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    return columns([stage.name for stage in all_stages], rows)


def bandwidth_table(a: Assumptions, all_stages: Sequence[Stage]) -> str:
    """Return the table of what every stage reads per second."""
    rows: dict[str, list[str]] = {}
    decode = decoding_rate()
    for stage in all_stages:
        per_second = stage.batch / seconds_per_step(a, stage)
        image, text = a.bytes_pixel * a.side**2, a.tokens * a.bytes_token
        nodes = a.gpus / 8
        encoding = 2 * a.encoder * a.tokens / (3 * stage.forward)
        cells = {
            "images/s": grouped(per_second),
            "images, all nodes": f"{scaled(per_second * image, 'B/s')}",
            "embeddings, all nodes": f"{scaled(per_second * text, 'B/s')}",
            "one node of 8": f"{scaled(per_second * (image + text) / nodes, 'B/s')}",
            "share of its network": f"{per_second * (image + text) / nodes / a.network:.1%}",
            "encoding captions in every step instead, share of its FLOPs": f"{encoding:.1%}",
        }
        if decode:
            cells["cores per node that decode (measured rate)"] = (
                f"{per_second / nodes / decode:.0f}"
            )
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    return columns([stage.name for stage in all_stages], rows)


def decoding_rate() -> float | None:
    """Return the newest measured images/s that a core decodes from the stored side."""
    row = newest_row(lambda case: case["what"] == "speed" and case["stored"] == Assumptions.side)
    return None if row is None else row["first_per_core_second"]


def newest_row(fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Return the newest row of ``benchmarks/data.py`` whose case fits."""
    path = ROOT / "benchmarks" / "results" / "data.jsonl"
    rows = map(json.loads, path.read_text("utf-8").splitlines()) if path.is_file() else ()
    found = [row for row in rows if fits(row["case"])]
    return found[-1] if found else None


def size_table(a: Assumptions, all_stages: Sequence[Stage]) -> str:
    """Return the table of what grows with the number of images."""
    rows: dict[str, list[str]] = {}
    samples = all_stages[0].batch * all_stages[0].steps
    for count in SIZES:
        cache = count * a.tokens * a.bytes_token
        hours = count * a.tokens * 2 * a.encoder / (a.peak * a.mfu) / 3600
        images = count * a.bytes_pixel * a.side**2
        cells = {
            "epochs of each stage": f"{samples / count:.3g}",
            "images on disk": scaled(images, "B"),
            "tar shards": grouped(count / a.shard),
            "stored list of a folder": scaled(count * a.list_row, "B"),
            "embedding cache": scaled(cache, "B"),
            "nodes whose disks hold both": f"{-(-(cache + images) // a.node):.0f}",
            "encoding the captions, GPU-hours": f"{hours:.2g}",
            "encoding the captions, dollars": f"{hours * a.price:.2g}",
        }
        listing = newest_row(lambda case: case["what"] == "memory")
        if listing:
            per_row = listing["seconds"] / listing["length"]
            cells["reading the list of a folder, hours (measured rate)"] = (
                f"{count * per_row / 3600:.2g}"
            )
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    return columns([f"{grouped(count)} images" for count in SIZES], rows)


def assumption_table(a: Assumptions) -> str:
    """Return every assumption with its reason."""
    rows = [["assumption", "value", "what it is, with its source"]]
    for each in dataclasses.fields(a):
        value = getattr(a, each.name)
        rows.append([f"`--{each.name}`", f"{value:g}", each.metadata["why"]])
    return markdown(rows)


def smaller_table(a: Assumptions, all_stages: Sequence[Stage]) -> str:
    """Return the table of the preset for eight GPUs, which train one stage after the other."""
    return stage_table(dataclasses.replace(a, gpus=SMALLER_GPUS), all_stages)


def dry_runs() -> str:
    """Return what the dry run of the preset for eight GPUs prints, with two ways to divide it."""
    from minimagen.cli.dry_run import Ranks, report
    from minimagen.storage.directory import read_parameters

    parameters = read_parameters(SMALLER)
    saving = parameters.training.replace(activation_checkpointing=True)
    ways = {
        "": (parameters, False),
        " --FSDP --ACTIVATION_CHECKPOINTING": (parameters._replace(training=saving), True),
    }
    parts = []
    for flags, (given, sharded) in ways.items():
        command = f"python train.py -p imagen_300m_64_256 --DRY_RUN --WORLD_SIZE 8{flags}"
        table = report(given, Ranks(SMALLER_GPUS, sharded)).partition("\n\n")[0]
        parts += [f"    $ {command}", *(f"    {line}" for line in table.splitlines()), ""]
    return "\n" + "\n".join(parts)


def sections(
    a: Assumptions, all_stages: Sequence[Stage], smaller: Sequence[Stage]
) -> dict[str, str]:
    """Return name of a table -> its text."""
    return {
        "assumptions": assumption_table(a),
        "stages": stage_table(a, all_stages),
        "smaller": smaller_table(a, smaller),
        "bandwidth": bandwidth_table(a, all_stages),
        "sizes": size_table(a, all_stages),
    }


def filled(page: str, tables: dict[str, str]) -> str:
    """Return the page with its tables replaced.

    Raises:
        ValueError: a table has no place on the page.
    """
    for name, text in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = place.subn(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} places for {name}")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for each in dataclasses.fields(Assumptions):
        text = f"{each.metadata['why']} [{each.default:g}]".replace("%", "%%")
        parser.add_argument(f"--{each.name}", type=float, default=each.default, help=text)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    given = vars(parser.parse_args(argv))
    write = given.pop("write")
    assumptions, smaller = Assumptions(**given), stages(SMALLER)
    tables = sections(assumptions, stages(), smaller)
    pages = {
        PAGE: tables,
        SMALLER_PAGE: {"dry_run": dry_runs(), "smaller": smaller_table(assumptions, smaller)},
    }
    for path, own in pages.items():
        page = filled(path.read_text("utf-8"), own)
        if write:
            path.write_text(page, "utf-8")
        else:
            print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
