import json
import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import sentencepiece
import torch
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from minimagen.errors import UserError
from minimagen.shapes import objects
from minimagen.text.encoding import encode_batch
from minimagen.text.names import HUB_ENCODERS, T5_MINI
from minimagen.text.pretrained import PretrainedEncoder

CAPTIONS = [
    "a large red star on a blue background",
    "green dotted background with a tiny heart in pink.",
    "",
    "a cat",
    "three yellow circles on a plain white background",
]


@pytest.fixture(scope="module")
def t5_mini() -> PretrainedEncoder:
    return PretrainedEncoder("t5_mini")


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A tiny T5 as a user would place it: tokenizer, configuration and safetensors."""
    vocabulary = json.loads((T5_MINI / "config.json").read_text())["vocab_size"]
    config = T5Config(vocab_size=vocabulary, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    shutil.copy(T5_MINI / "spiece.model", tmp_path)
    return tmp_path


def test_an_embedding_does_not_depend_on_the_batch_it_came_in(t5_mini: PretrainedEncoder):
    rng = random.Random(0)
    captions = [objects.caption_for(objects.attributes_for("train", rng), rng) for _ in range(40)]
    alone = [t5_mini.encode([caption])[0] for caption in captions]
    for company in (captions, captions[::-1], captions[17:] + CAPTIONS):
        for caption, embeds in zip(company, t5_mini.encode(company), strict=True):
            if caption in captions:
                assert torch.equal(embeds, alone[captions.index(caption)])


def test_embeddings_equal_transformers_own_forward_with_an_attention_mask(
    t5_mini: PretrainedEncoder,
):
    tokens = [torch.tensor(ids) for ids in t5_mini.tokenize(CAPTIONS)]
    ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    mask = ids != 0
    model = T5EncoderModel.from_pretrained(T5_MINI, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    embeds = torch.cat(t5_mini.encode(CAPTIONS))
    torch.testing.assert_close(embeds, expected[mask], rtol=0, atol=1e-4)
    encoding = encode_batch(t5_mini, CAPTIONS)
    assert torch.equal(encoding.mask[:, : mask.shape[1]], mask)
    assert torch.equal(encoding.embeds[encoding.mask], embeds.bfloat16().float())
    assert not encoding.embeds[~encoding.mask].any()


def test_tokens_equal_those_of_transformers_tokenizer(t5_mini: PretrainedEncoder, own_folder: Path):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(T5_MINI / "spiece.model"))
    sentinels = json.loads((T5_MINI / "tokenizer_config.json").read_text())["extra_ids"]
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(sentinels))]
    reference = T5Tokenizer(vocab=pieces, extra_ids=sentinels)
    assert t5_mini.tokenize(CAPTIONS) == reference(CAPTIONS)["input_ids"]

    reference.save_pretrained(own_folder)
    (own_folder / "spiece.model").unlink()  # then only tokenizer.json is left
    assert PretrainedEncoder(str(own_folder)).tokenize(CAPTIONS) == t5_mini.tokenize(CAPTIONS)


def test_any_caption_encodes_and_none_is_unknown(t5_mini: PretrainedEncoder):
    captions = ["", "ein rotes Herz über 東京", "🦄 \t\n", "\x00", "x" * 10]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(T5_MINI / "spiece.model"))
    for ids, embeds in zip(t5_mini.tokenize(captions), t5_mini.encode(captions), strict=True):
        assert ids[-1] == processor.eos_id()
        assert processor.unk_id() not in ids
        assert len(embeds) >= 1 and embeds.isfinite().all()


def test_the_same_words_in_another_order_mean_something_else(t5_mini: PretrainedEncoder):
    one, two = t5_mini.encode(["a red star on a blue ring", "a blue star on a red ring"])
    assert (one.mean(0) - two.mean(0)).abs().max() > 0.05


def test_embeddings_are_frozen_yet_usable_in_training(t5_mini: PretrainedEncoder):
    embeds = encode_batch(t5_mini, ["a red star"]).embeds
    assert not embeds.requires_grad and embeds.dtype == torch.float32
    layer = torch.nn.Linear(t5_mini.embed_dim, 1)
    layer(embeds).sum().backward()
    assert layer.weight.grad is not None


def test_long_captions_are_cut_counted_and_told_once_in_a_run(caplog: pytest.LogCaptureFixture):
    encoder = PretrainedEncoder("t5_mini", max_num_words=6)
    counts = []
    with caplog.at_level(logging.WARNING, logger="minimagen"):
        for batch in ([CAPTIONS[3]], CAPTIONS, CAPTIONS[::-1], [CAPTIONS[0] + " again"]):
            assert max(len(embeds) for embeds in encoder.encode(batch)) <= 6
            counts.append(encoder.notes())
    noted = [[f"{n} different captions were cut to 6 tokens"] if n else [] for n in (0, 3, 3, 4)]
    assert counts == noted  # different captions: encoded again, they count once
    length = len(encoder.tokenize(CAPTIONS)[0])
    assert [record.getMessage() for record in caplog.records] == [
        f"a caption of {length} tokens is cut to 6 (`max_num_words`); others are counted"
    ]
    assert encoder._cut([7, 8, 9, 10, 11, 12, 1]) == [7, 8, 9, 10, 11, 1]


def test_a_folder_of_the_user_is_loaded(own_folder: Path):
    encoder = PretrainedEncoder(str(own_folder), max_num_words=16)
    assert encoder.embed_dim == 8
    assert encode_batch(encoder, ["a red star"]).embeds.shape[-1] == 8


@pytest.mark.parametrize("given", ["t5_smal", "T5 small", "./nowhere", "a/b/c", "xl1_1"])
def test_an_impossible_name_is_refused_at_once(given: str):
    with pytest.raises(UserError, match="unknown text encoder .* t5_mini"):
        PretrainedEncoder(given)


def test_the_nearest_name_is_suggested():
    with pytest.raises(UserError, match="did you mean 't5_small'"):
        PretrainedEncoder("t5_smal")


def test_an_encoder_that_cannot_be_fetched_says_how_to_place_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("t5_large", "absent/nothing-like-this"):
        with pytest.raises(UserError, match="`text_encoder` /path/to/folder.*t5_mini"):
            PretrainedEncoder(name).encode(["a red star"])


def test_widths_of_known_encoders_need_neither_network_nor_libraries():
    code = (
        "import sys; from minimagen.text.pretrained import PretrainedEncoder as T;"
        f"print([T(n).embed_dim for n in {list(HUB_ENCODERS)}], T('t5_mini').embed_dim);"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert b"[512, 768, 1024, 1024, 1024, 512, 768, 1024, 2048, 4096]" in output


def test_weights_that_could_run_code_are_refused(own_folder: Path):
    (own_folder / "model.safetensors").rename(own_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        PretrainedEncoder(str(own_folder)).load()


def test_damaged_weights_are_refused(own_folder: Path):
    weights = own_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged or not its own"):
        PretrainedEncoder(str(own_folder)).load()


def test_weights_of_another_shape_or_model_are_refused(own_folder: Path):
    shutil.copy(T5_MINI / "model.safetensors", own_folder)
    with pytest.raises(UserError, match="damaged or not its own"):
        PretrainedEncoder(str(own_folder)).load()
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UserError, match="lack .embeddings"):
        PretrainedEncoder(str(own_folder)).load()


def test_weights_that_lack_a_layer_are_refused(own_folder: Path):
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    with pytest.raises(UserError, match="lack 'encoder.block.1"):
        PretrainedEncoder(str(own_folder)).load()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("d_ff", "x", "d_ff is 'x'"),
        ("d_model", 0, "d_model is 0"),
        ("num_layers", 10**12, "num_layers is 1000000000000"),
        ("num_heads", True, "num_heads is True"),
        ("relative_attention_max_distance", -1, "max_distance is -1"),
        ("relative_attention_max_distance", 8, "more than a quarter"),
        ("relative_attention_num_buckets", 3, "must be at least 4"),
        ("dtype", "x", "describes no text encoder"),
        ("dropout_rate", "x", "describes no text encoder.*dropout_rate"),
        ("dense_act_fn", "strange", "describes no text encoder.*strange"),
        ("vocab_size", 100, "spiece.model has 1408 tokens, the encoder beside it knows 100"),
    ],
)
def test_an_impossible_config_is_refused_in_one_line(
    own_folder: Path, key: str, value: Any, reason: str
):
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match=reason) as error:
        PretrainedEncoder(str(own_folder)).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"hello", b"\xff\xfe", "cut"])
@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.json"])
def test_a_damaged_tokenizer_is_refused_in_one_line(
    own_folder: Path, capfd: pytest.CaptureFixture[str], file: str, content: bytes | str
):
    if content == "cut":
        content = (own_folder / "spiece.model").read_bytes()[:-10]
    assert isinstance(content, bytes)
    (own_folder / "spiece.model").unlink()
    (own_folder / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file} is damaged") as error:
        PretrainedEncoder(str(own_folder)).load()
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_an_encoder_follows_to_before_and_after_loading(own_folder: Path):
    """torch's meta device stands in for a GPU: weights that are there have arrived."""
    for loaded in (False, True):
        encoder = PretrainedEncoder(str(own_folder))
        if loaded:
            encoder.load()
        assert encoder.to("meta") is encoder
        encoder.load()
        assert {p.device.type for p in encoder._model.parameters()} == {"meta"}


def test_a_folder_without_tokenizer_is_refused(own_folder: Path):
    (own_folder / "spiece.model").unlink()
    with pytest.raises(UserError, match="neither spiece.model nor tokenizer.json"):
        PretrainedEncoder(str(own_folder)).load()


def test_a_limit_below_one_token_is_refused():
    with pytest.raises(UserError, match="`max_num_words` is 0"):
        PretrainedEncoder("t5_mini", max_num_words=0)


def test_the_bundled_encoder_is_small_and_half_precision():
    assert sum(file.stat().st_size for file in T5_MINI.iterdir()) <= 8_000_000
    assert json.loads((T5_MINI / "config.json").read_text())["dtype"] == "float16"
