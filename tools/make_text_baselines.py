"""Write the two encoders that t5_mini is compared with, to be loaded by --T5_NAME.

    python tools/make_text_baselines.py OUT

OUT/random is t5_mini's network with random weights. OUT/bag_of_words has no layers: every token has
one fixed random vector, which does not depend on the other tokens or on its position.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel

from minimagen.text.names import T5_MINI

TOKENIZER_FILES = ("spiece.model", "tokenizer_config.json")


def write_baseline(folder: Path, seed: int, **changes: int) -> None:
    """Write t5_mini with random weights and, if given, another configuration."""
    config = T5Config.from_pretrained(T5_MINI)
    config.update(changes)
    torch.manual_seed(seed)
    T5EncoderModel(config).half().save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(T5_MINI / name, folder / name)


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_baseline(options.output / "random", options.seed)
    write_baseline(options.output / "bag_of_words", options.seed, num_layers=0)


if __name__ == "__main__":
    main()
