"""CLIP: its loss in closed form, its towers, what it is as a text encoder."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minimagen import Imagen, ImagenConfig, TrainingConfig, train
from minimagen.cli import clip as clip_command
from minimagen.config import ClipConfig, DataConfig, LearnerTrainingConfig
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.evaluation.clip import class_vectors, evaluate_clip, recall_at
from minimagen.images import Batch
from minimagen.shapes.dataset import embedded
from minimagen.storage.files import write_json
from minimagen.text.build import build, fresh_clip, load_clip
from minimagen.text.clip import Clip
from minimagen.text.clip_encoder import ClipEncoder
from minimagen.text.contrastive import info_nce, sigmoid_loss
from minimagen.text.encoding import encode_batch
from minimagen.text.pretrained import PretrainedEncoder
from minimagen.training.trainer import Trainer

KINDS = ("characters", "sentencepiece", "locked")
CAPTIONS = ["a red star", "a large blue ring on green", "a red star", "a moon"]


def config(kind: str = "characters", **changes: Any) -> ClipConfig:
    text = {"kind": kind, "dim": 16, "depth": 1, "heads": 2, "max_length": 24}
    image = {"kind": "cnn", "dims": (8, 16)}
    return ClipConfig(
        **{"image_size": 16, "embed_dim": 12, "image": image, "text": text, **changes}
    )


def make(kind: str = "characters", **changes: Any) -> Clip:
    torch.manual_seed(0)
    return fresh_clip(config(kind, **changes))


def unit(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(
        torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1
    )


def batch(clip: Clip, captions: list[str]) -> Batch:
    random = torch.Generator().manual_seed(1)
    images = torch.rand(len(captions), 3, 16, 16, generator=random) * 2 - 1
    rows = len(captions)
    return Batch(images, torch.zeros(rows, 1, 1), torch.ones(rows, 1, dtype=torch.bool), captions)


def test_info_nce_is_the_cross_entropy_of_both_directions_where_captions_differ() -> None:
    images, texts = unit(5, 7), unit(5, 7, seed=1)
    scale, same = torch.tensor(9.0, dtype=torch.float64), torch.eye(5, dtype=torch.bool)
    loss = info_nce(images, texts, scale, same, (images, texts))
    logits, target = 9.0 * images @ texts.T, torch.arange(5)
    expected = [
        torch.nn.functional.cross_entropy(each, target, reduction="none")
        for each in (logits, logits.T)
    ]
    torch.testing.assert_close(loss, sum(expected) / 2)


def test_equal_captions_are_positives_and_the_least_loss_is_0() -> None:
    """Ten captions in a batch of forty: a perfect model reaches 0, however sharp it is."""
    keys = torch.arange(40) % 10
    vectors = torch.eye(10, dtype=torch.float64)[keys]
    same = keys[:, None] == keys
    scale = torch.tensor(100.0, dtype=torch.float64)
    loss = info_nce(vectors, vectors, scale, same, (vectors, vectors))
    torch.testing.assert_close(loss, torch.zeros(40, dtype=torch.float64), rtol=0, atol=1e-12)
    guess = info_nce(0 * vectors, vectors, scale, same, (0 * vectors, vectors))
    torch.testing.assert_close(guess, torch.full_like(guess, math.log(40) - math.log(4)))


def test_the_sigmoid_loss_is_a_decision_for_every_pair() -> None:
    images, texts = unit(4, 6), unit(4, 6, seed=1)
    same = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    scale, bias = torch.tensor(10.0).double(), torch.tensor(-10.0).double()
    loss = sigmoid_loss(images, scale, bias, same, texts)
    p = torch.sigmoid(scale * images @ texts.T + bias)
    expected = -(torch.where(same, p, 1 - p)).log().sum(1)
    torch.testing.assert_close(loss, expected)


def test_the_trainer_keeps_the_temperature_in_its_range() -> None:
    clip = make()
    trainer = Trainer(clip, "clip", LearnerTrainingConfig(optimizer="adamw"), 3, precision="fp32")
    with torch.no_grad():
        clip.log_scale.fill_(9.0)
    trainer.train_step(batch(clip, CAPTIONS))
    assert clip.log_scale.item() == pytest.approx(math.log(100))


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_the_loss_is_computed_in_float32_under_autocast(loss: str) -> None:
    images, texts = unit(16, 8).float(), unit(16, 8, seed=1).float()
    scale, same = torch.tensor(100.0), torch.eye(16, dtype=torch.bool)

    def compute() -> Tensor:
        if loss == "sigmoid":
            return sigmoid_loss(images, scale, torch.tensor(-10.0), same, texts)
        return info_nce(images, texts, scale, same, (images, texts))

    expected = compute()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compute(), expected)


def test_temperature_starts_at_its_papers_value_and_stays_in_its_range() -> None:
    clip = make()
    assert clip.log_scale.exp().item() == pytest.approx(1 / 0.07)
    for value, kept in ((9.0, math.log(100)), (-3.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            clip.log_scale.fill_(value)
        clip.after_step()
        assert clip.log_scale.item() == pytest.approx(kept)
    sigmoid = make(loss="sigmoid")
    assert sigmoid.log_scale.exp().item() == pytest.approx(10) and sigmoid.bias.item() == -10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", ["cnn", "vit"])
def test_every_parameter_learns_and_padding_changes_nothing(kind: str, image: str) -> None:
    tower = {"kind": image, "dims": (8, 16), "patch_size": 8, "dim": 16, "depth": 1, "heads": 2}
    clip = make(kind, image=tower).train()
    given = batch(clip, CAPTIONS)
    loss = clip.loss(given, Draws(0, "clip", 0, 4))
    assert loss.shape == (4,) and loss.dtype == torch.float32
    loss.sum().backward()
    for name, parameter in clip.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    alone = torch.cat([clip.of_captions([caption]) for caption in CAPTIONS])
    torch.testing.assert_close(clip.of_captions(CAPTIONS), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_learns_one_batch_by_heart(kind: str) -> None:
    clip = make(kind).train()
    given = batch(clip, CAPTIONS)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss = clip.loss(given, Draws(0, "clip", step, 4)).mean()
        loss.backward()
        optimizer.step()
        clip.after_step()
    assert loss < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_as_an_encoder_it_gives_its_vector_and_then_the_states(kind: str) -> None:
    clip = make(kind)
    encoder = ClipEncoder(clip)
    found = encoder.encode(CAPTIONS)
    for caption, embeds in zip(CAPTIONS, found, strict=True):
        (tokens,) = clip.lengths([caption])
        assert embeds.shape == (1 + min(tokens, 24), 16)
        vector = clip.of_captions([caption])[0].detach() * 12**0.5
        torch.testing.assert_close(embeds[0, :12], vector, rtol=0, atol=1e-4)
        assert not embeds[0, 12:].any()
        assert torch.equal(encoder.encode([caption])[0], embeds)  # in any batch
    assert torch.equal(found[0], found[2])
    pooled = ClipEncoder(make(kind, pooled_only=True)).encode(CAPTIONS)
    assert all(each.shape == (1, 12) for each in pooled)


def test_long_captions_are_cut_and_counted() -> None:
    encoder = ClipEncoder(make())
    (embeds,) = encoder.encode(["x" * 40])
    assert len(embeds) == 1 + 24
    assert encoder.notes() == ["1 different captions were cut to 24 tokens"]
    assert encoder.inspect(["x" * 40])[0].tokens == 40


def test_the_fingerprint_changes_with_weights_and_what_is_given() -> None:
    clip = make()
    one = ClipEncoder(clip).fingerprint
    assert one == ClipEncoder(make()).fingerprint
    assert one != ClipEncoder(make(pooled_only=True)).fingerprint
    with torch.no_grad():
        clip.text.project.weight[0, 0] += 1e-3
    assert one != ClipEncoder(clip).fingerprint


def test_recall_counts_rows_with_a_right_column_among_the_nearest() -> None:
    similarity = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    right = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 1]]).bool()
    found = recall_at(similarity, right, (1, 2, 9))
    assert found == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3), 9: 1.0}


def test_class_vectors_are_the_mean_over_templates() -> None:
    clip = make()
    vectors = class_vectors(clip, ["cat", "dog"], ("a {}", "{} here"))
    parts = [clip.of_captions([t.format("dog") for t in ("a {}", "{} here")]).detach()]
    expected = torch.nn.functional.normalize(parts[0].mean(0), dim=0)
    torch.testing.assert_close(vectors[1], expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP and a small stage that it conditions, trained a few steps."""
    folder = tmp_path_factory.mktemp("clip")
    imagen = Imagen(cascade())
    steps = TrainingConfig(batch_size=8, steps=3, chckpt_num=2, sample_captions=("a red star",))
    dataset = embedded("shapes", size=16, epoch_size=64)
    train(imagen, dataset, steps, data=None, output=folder / "run", device="cpu")
    return folder / "run"


def cascade(name: str = "clip", **changes: Any) -> ImagenConfig:
    unet = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 1, "attn_head_dim": 8}
    stage = {"unet": unet, "sampling": {"timesteps": 2}}
    values = {"image_sizes": [16], "stages": [stage], "clip": config(), "text_encoder_name": name}
    return ImagenConfig(**values | changes)


def test_a_cascade_trains_its_clip_and_is_conditioned_by_it(trained: Path) -> None:
    imagen = Imagen.from_directory(trained)
    clip = load_clip(trained)
    one, other = (e.encode(["a red star"])[0] for e in (imagen.text_encoder, ClipEncoder(clip)))
    assert torch.equal(one, other)
    by_path = build(str(trained), 64)
    assert by_path.fingerprint == imagen.text_encoder.fingerprint
    frozen = Imagen(cascade(str(trained), clip=None))
    assert [learner.name for learner in frozen.learners] == ["unet_0"]
    assert frozen.identity(0).difference(imagen.identity(1)) == ""  # known by its fingerprint


def test_a_clip_is_tried_on_other_data_by_that_data_s_defaults(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by the columns, the filter and the crop of what it was trained on."""
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    own = DataConfig(dataset="somewhere/else", caption_column="title", where="width >= 64")
    write_json(copy / "parameters" / "data.json", own.model_dump(mode="json"))
    argv = [str(copy), "--DATASET", "shapes", "--COUNT", "60", "--DEVICE", "cpu"]
    assert clip_command.main([*argv, "--CAPTION_COLUMN", "color"]) == 0
    assert "zero-shot accuracy" in capsys.readouterr().out


def test_a_stage_refuses_another_clip(trained: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = trained / "state_dicts" / "clip.safetensors"
    content = path.read_bytes()
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["text.project.weight"] = tensors["text.project.weight"] + 1
    save_file(tensors, path, header)
    try:
        with pytest.raises(UserError, match="the text encoder, or its `max_num_words`"):
            Imagen.from_directory(trained)
    finally:
        path.write_bytes(content)


def test_what_is_measured_of_a_clip_is_that_of_its_vectors(trained: Path) -> None:
    clip = load_clip(trained)
    samples = list(embedded("shapes", size=16, epoch_size=40, caption_column="shape"))
    report = evaluate_clip(clip, samples, ("a {}",))
    names = list(dict.fromkeys(sample.caption for sample in samples))
    with torch.no_grad():
        images = torch.cat(
            [clip.of_images(torch.from_numpy(s.image).permute(2, 0, 1)[None]) for s in samples]
        )
        nearest = (images @ clip.of_captions([f"a {n}" for n in names]).T).argmax(1)
    right = [names[i] == s.caption for i, s in zip(nearest.tolist(), samples, strict=True)]
    assert report.accuracy == pytest.approx(sum(right) / 40)
    assert f"zero-shot accuracy: {100 * sum(right) / 40:.2f} % (n 40)" in list(report.lines())
    assert report.recall[5] >= report.recall[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 18}, "18 x 18 is not divisible by 4"),
        ({"text": {"dim": 10, "heads": 4}}, "dim 10 is not divisible by heads 4"),
    ],
)
def test_a_clip_that_does_not_fit_is_one_line(changes: dict[str, Any], words: str) -> None:
    values = config().model_dump() | changes
    with pytest.raises(UserError, match=words):
        ClipConfig.read(values, "clip.json")


def test_accumulation_is_refused(tmp_path: Path) -> None:
    config = TrainingConfig(batch_size=8, accum_iter=2, steps=1)
    with pytest.raises(UserError, match="clip compares the examples of a whole batch"):
        dataset = embedded("shapes", size=16, epoch_size=64)
        train(Imagen(cascade()), dataset, config, output=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_locked_tower_keeps_what_a_stage_would_keep() -> None:
    """Training computes in bfloat16; the embeddings that go into the cache are not rounded so."""
    exact = encode_batch(PretrainedEncoder("t5_mini", 24), CAPTIONS).embeds
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encode_batch(PretrainedEncoder("t5_mini", 24), CAPTIONS).embeds
    assert torch.equal(rounded, exact)


def test_images_are_changed_in_training_alone() -> None:
    clip, seen = make(jitter=1.0), []
    of_images = clip.of_images

    def watched(images: Tensor) -> Tensor:
        seen.append(images)
        return of_images(images)

    clip.of_images = watched  # type: ignore[method-assign]
    given = batch(clip, CAPTIONS)
    clip.train().loss(given, Draws(0, "clip", 0, 4))
    clip.eval().loss(given, Draws(0, "clip", 0, 4))
    assert not torch.equal(seen[0], given.images) and torch.equal(seen[1], given.images)


def test_a_locked_tower_reads_the_encoder_that_it_names() -> None:
    embeds, mask = make("locked").tokens_of(CAPTIONS)
    expected = encode_batch(PretrainedEncoder("t5_mini", 24), CAPTIONS)
    assert torch.equal(embeds, expected.embeds) and torch.equal(mask, expected.mask)


def test_training_puts_captions_into_prompts_and_validation_into_the_first() -> None:
    clip = make(prompts=("{}", "an image of {}", "here is {}"))
    asked: list[str] = []
    of_captions = clip.of_captions

    def watched(captions: list[str]) -> Tensor:
        asked.extend(captions)
        return of_captions(captions)

    clip.of_captions = watched  # type: ignore[method-assign,assignment]
    given = batch(clip, CAPTIONS * 30)
    clip.train().loss(given, Draws(0, "clip", 0, 120))
    for caption, prompted in zip(CAPTIONS * 30, asked, strict=True):
        assert prompted in (caption, f"an image of {caption}", f"here is {caption}")
    shares = [sum(a.startswith(p) for a in asked) / 120 for p in ("an image", "here")]
    assert all(0.2 < share < 0.47 for share in shares)
    asked.clear()
    clip.eval().loss(given, Draws(0, "clip", 0, 120))
    assert asked == CAPTIONS * 30
    with pytest.raises(UserError, match="must have one {} for the caption"):
        ClipConfig.read(config().model_dump() | {"prompts": ["an image"]}, "clip.json")
