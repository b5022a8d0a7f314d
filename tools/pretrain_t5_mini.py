"""Make the bundled text encoder minimagen/text/t5_mini: one command, deterministic.

    python tools/pretrain_t5_mini.py

A sentencepiece model is trained on generated captions (tools/caption_corpus.py), then a small
T5 v1.1 on span corruption (Raffel et al. 2020, section 3.1.4): spans of the document are replaced
by sentinels, and the decoder writes the replaced text. In half of the documents the span is one
whole wording, so that the decoder must find its content in the encodings of the other wordings.
Only the encoder is kept.
"""

import argparse
import io
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import sentencepiece
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel, T5ForConditionalGeneration

from minimagen.text.names import T5_MINI
from tools import caption_corpus

PIECES = 1408
SENTINELS = 32  # after the pieces, in reverse order, as in transformers' T5Tokenizer
VOCABULARY = PIECES + SENTINELS
NOISE_DENSITY = 0.25
MEAN_SPAN = 2.0
PEAK_LR = 1e-2
POSITION_SCALE = 3.0
SCHEDULE = 3000  # steps of the learning rate's schedule
STEPS = 500  # of them that are run: tokens are bound by then, and still easy to separate
POOLED_BATCHES = 16
IGNORED = -100


def encoder_config() -> T5Config:
    """Return the shape of t5_mini; the decoder is shallow, so that the encoder does the work."""
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=4,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,  # in transformers 5: tied, but not scaled down
        decoder_start_token_id=0,
    )


def train_tokenizer(seed: int, documents: int = 60_000) -> bytes:
    """Train a unigram model with byte fallback on generated documents; case is folded."""
    rng = random.Random(f"tokenizer {seed}")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(caption_corpus.document(rng)) for _ in range(documents)),
        model_writer=model,
        model_type="unigram",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def split_randomly(total: int, parts: int, rng: random.Random) -> list[int]:
    """Return `parts` positive integers with the sum `total`, all ways alike."""
    cuts = [0, *sorted(rng.sample(range(1, total), parts - 1)), total]
    return [end - start for start, end in zip(cuts, cuts[1:], strict=False)]


def corrupt_spans(tokens: list[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """Hide random spans behind sentinels, as T5 does.

    Args:
        tokens: a document without its end of sequence, at least 2 tokens.
        rng: where the spans come from.

    Returns:
        The encoder's input and the decoder's target, without end of sequence.
    """
    hidden = min(max(round(len(tokens) * NOISE_DENSITY), 1), len(tokens) - 1)
    spans = min(max(round(hidden / MEAN_SPAN), 1), len(tokens) - hidden)
    hidden_lengths = split_randomly(hidden, spans, rng)
    kept_lengths = split_randomly(len(tokens) - hidden, spans, rng)
    hide_first = rng.random() < 0.3  # T5 never hides the first token, which here is worth knowing
    inputs: list[int] = []
    targets: list[int] = []
    position = 0
    for index, lengths in enumerate(zip(kept_lengths, hidden_lengths, strict=True)):
        sentinel = [VOCABULARY - 1 - index]
        for kept in (False, True) if hide_first else (True, False):
            span = tokens[position : position + lengths[not kept]]
            position += len(span)
            inputs += span if kept else sentinel
            targets += [] if kept else sentinel + span
    return inputs, targets


def hide_wording(wordings: list[list[int]], rng: random.Random) -> tuple[list[int], list[int]]:
    """Hide one of at least two wordings whole behind the first sentinel; see `corrupt_spans`."""
    hidden, sentinel = rng.randrange(len(wordings)), [VOCABULARY - 1]
    inputs = [sentinel if i == hidden else wording for i, wording in enumerate(wordings)]
    return sum(inputs, []), sentinel + wordings[hidden]


def examples(
    processor: sentencepiece.SentencePieceProcessor, rng: random.Random
) -> Iterator[tuple[list[int], list[int]]]:
    """Draw documents and corrupt them, without end: the encoder's input, the decoder's target."""
    end = [processor.eos_id()]
    while True:
        wordings = processor.encode(caption_corpus.document(rng))
        if len(wordings) > 1 and rng.random() < 0.5:
            inputs, targets = hide_wording(wordings, rng)
        else:
            inputs, targets = corrupt_spans(sum(wordings, []), rng)
        yield inputs + end, targets + end


def batches(
    processor: sentencepiece.SentencePieceProcessor, rng: random.Random, size: int
) -> Iterator[dict[str, Tensor]]:
    """Collect what T5ForConditionalGeneration trains on, examples of one length in one batch."""
    stream = examples(processor, rng)
    while True:
        pool = sorted(islice(stream, size * POOLED_BATCHES), key=lambda pair: len(pair[0]))
        starts = [*range(0, len(pool), size)]
        rng.shuffle(starts)
        yield from (collate(pool[start : start + size]) for start in starts)


def collate(pairs: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Pad inputs and targets; padding is neither read nor asked for."""
    inputs, labels = ([torch.tensor(each) for each in side] for side in zip(*pairs, strict=True))
    input_ids = pad_sequence(inputs, batch_first=True)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != 0).long(),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def learning_rate(step: int, steps: int) -> float:
    """Warm up over 4 % of the run, then fall to zero along a cosine."""
    warm_up = max(1, round(0.04 * steps))
    if step < warm_up:
        return PEAK_LR * (step + 1) / warm_up
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


class NeighbourlyT5(T5ForConditionalGeneration):
    """A T5 whose heads start with strong, different preferences for neighbouring places.

    T5 starts with hardly any; then a token learns very late what stands beside it. The words' table
    starts small, because it is also the decoder's head: at transformers' unit scale the loss would
    start above 100.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        torch.nn.init.normal_(self.shared.weight, std=config.d_model**-0.5)
        for stack in (self.encoder, self.decoder):
            attention = stack.block[0].layer[0].SelfAttention
            torch.nn.init.normal_(attention.relative_attention_bias.weight, std=POSITION_SCALE)


def pretrain(
    processor: sentencepiece.SentencePieceProcessor, steps: int, batch_size: int, seed: int
) -> T5ForConditionalGeneration:
    """Train encoder and decoder on span corruption."""
    torch.manual_seed(seed)
    model = NeighbourlyT5(encoder_config()).train()
    # T5's own optimizer: steps relative to each tensor's size, which spans two orders of magnitude
    optimizer = torch.optim.Adafactor(model.parameters(), lr=PEAK_LR, weight_decay=0.0)
    started, recent = time.monotonic(), 0.0
    stream = batches(processor, random.Random(f"documents {seed}"), batch_size)
    for step, batch in zip(range(steps), stream, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, SCHEDULE)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} loss {recent:.3f} {time.monotonic() - started:.0f} s", flush=True)
    return model


def save_encoder(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Write the encoder alone, as transformers does, in float16."""
    encoder = T5EncoderModel(encoder_config())
    encoder.shared.load_state_dict(model.shared.state_dict())
    encoder.encoder.load_state_dict(model.encoder.state_dict())
    encoder.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # transformers writes it for its owner alone


def main() -> None:
    """Train tokenizer and encoder and write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=T5_MINI)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(options.seed)
    (options.output / "spiece.model").write_bytes(tokenizer)
    described = {"tokenizer_class": "T5Tokenizer", "extra_ids": SENTINELS}
    (options.output / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    model = pretrain(processor, options.steps, options.batch_size, options.seed)
    save_encoder(model, options.output)


if __name__ == "__main__":
    main()
