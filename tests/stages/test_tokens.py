"""A GPT over image tokens: against transformers' GPT-2, and what sampling draws."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from minimagen import Imagen, ImagenConfig, TrainingConfig, UserError, train
from minimagen.autoencoders.discrete import FiniteScalars
from minimagen.config import AutoencoderConfig, TokenConfig, TokenSamplingConfig
from minimagen.config.networks import GPTConfig
from minimagen.draws import Draws, SeededNoise
from minimagen.images import Batch
from minimagen.networks.codes import CodeVectors
from minimagen.networks.transformer import GPT, Prefix
from minimagen.shapes.dataset import embedded
from minimagen.stages.stage import Condition
from minimagen.stages.tokens import TokenStage, choose
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory

DIM, HEADS, CODES, GRID = 16, 2, 30, (2, 3)
LEVELS = (5, 3, 2)


def network(depth: int = 2, **changes: Any) -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(dim=DIM, depth=depth, heads=HEADS, **{"dropout": 0.0, **changes})
    gpt = GPT(config, CODES, GRID, 8, LEVELS).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():  # larger than at the start, so that a mistake shows
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return gpt


def text(rows: int = 3) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    embeds = torch.randn(rows, 5, 8, generator=random)
    lengths = torch.tensor([5, 3, 1, 4][:rows])
    mask = torch.arange(5) < lengths[:, None]
    return embeds * mask[..., None], mask


def codes(rows: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(4)
    return torch.randint(CODES, (rows, GRID[0] * GRID[1]), generator=random)


@pytest.mark.parametrize("kind", ["table", "channels", "both"])
def test_logits_are_those_of_transformers_gpt_2_with_the_same_weights(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = network(embedding=kind, head=kind)
    config = transformers.GPT2Config(
        vocab_size=CODES, n_positions=32, n_embd=DIM, n_layer=2, n_head=HEADS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        theirs.transformer.wpe.weight.zero_()
        theirs.lm_head.weight = torch.nn.Parameter(ours.head().clone())
        theirs.transformer.ln_f.load_state_dict(ours.ln_f.state_dict())
        names = {
            "attn.c_attn": "c_attn",
            "attn.c_proj": "c_proj",
            "mlp.c_fc": "c_fc",
            "mlp.c_proj": "mlp_proj",
        }
        for block, other in zip(ours.blocks, theirs.transformer.h, strict=True):
            for name, own in names.items():
                other.get_submodule(name).weight.copy_(block.get_submodule(own).weight.T)
                other.get_submodule(name).bias.copy_(block.get_submodule(own).bias)
            other.ln_1.load_state_dict(block.ln_1.state_dict())
            other.ln_2.load_state_dict(block.ln_2.state_dict())
        prefix = ours.prefix(*text(), torch.zeros(3, dtype=torch.bool))
        given = codes()
        mine = ours(prefix, given)
        inputs = torch.cat([prefix.tokens, ours._inputs(ours.codes()[given[:, :-1]])], dim=1)
        mask = torch.nn.functional.pad(prefix.mask, (0, given.shape[1]), value=True)
        logits = theirs(inputs_embeds=inputs, attention_mask=mask.long()).logits
    torch.testing.assert_close(mine, logits[:, prefix.tokens.shape[1] :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["table", "both"])
def test_the_cache_gives_what_the_whole_sequence_gives(kind: str) -> None:
    gpt, given = network(embedding=kind, head=kind), codes()
    prefix = gpt.prefix(*text(), torch.tensor([False, True, False]))
    with torch.no_grad():
        whole = gpt(prefix, given)
        decoding, before = gpt.begin(prefix), None
        for i in range(gpt.length):
            logits = decoding.next_logits(before)
            torch.testing.assert_close(logits, whole[:, i], rtol=0, atol=1e-5)
            before = given[:, i]


def test_a_code_s_vector_is_the_sum_of_those_of_its_channels() -> None:
    """Channels as FSQ has them: codes that differ in one channel differ by that channel's part."""
    fsq, vectors = FiniteScalars(LEVELS), CodeVectors("channels", CODES, DIM, LEVELS)
    channels = rearrange(fsq.vectors(torch.arange(CODES).view(1, 1, -1)), "1 c 1 k -> k c")
    inverse = [channels[:, i].unique(return_inverse=True)[1] for i in range(len(LEVELS))]
    one_hot = torch.cat(
        [one_hot_of(each, n) for each, n in zip(inverse, LEVELS, strict=True)], dim=1
    )
    assert vectors.channels is not None
    torch.testing.assert_close(vectors(), one_hot @ vectors.channels)
    x = torch.randn(4, DIM)  # as a head: the probability of a code is that of its digits
    p = (x @ vectors().T).softmax(-1)
    parts = (x @ vectors.channels.T).split(LEVELS, dim=-1)
    product = torch.ones(4, 1)
    for part in parts:  # the first channel counts ones
        product = rearrange(part.softmax(-1)[:, :, None] * product[:, None], "b d k -> b (d k)")
    torch.testing.assert_close(p, product)


def one_hot_of(places: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(places, count).float()


def test_a_code_s_own_vector_is_added_and_begins_at_0() -> None:
    both = CodeVectors("both", CODES, DIM, LEVELS)
    assert both.weight is not None and both.channels is not None
    shared = CodeVectors("channels", CODES, DIM, LEVELS)
    shared.load_state_dict({"channels": both.channels})
    assert torch.equal(both(), shared()) and both.channels.std() > 0.01
    own = torch.randn(CODES, DIM)
    both.load_state_dict({"channels": both.channels, "weight": own})
    torch.testing.assert_close(both(), shared() + own)


def test_codes_without_channels_have_a_vector_each() -> None:
    gumbel = AutoencoderConfig(
        kind="gumbel", image_size=16, block_out_channels=(8, 16, 16), norm_num_groups=4
    )
    stage = {"kind": "tokens", "gpt": {"dim": 16, "depth": 1, "heads": 2, "head": "both"}}
    with pytest.raises(UserError, match="gpt.head is 'both', but codes of kind gumbel have no"):
        Imagen(config(autoencoders=[gumbel.model_dump()], stages=[stage]))


def test_a_token_depends_on_those_before_it_and_on_real_text_only() -> None:
    gpt, given = network(), codes()
    embeds, mask = text()
    keep = torch.zeros(3, dtype=torch.bool)
    with torch.no_grad():
        logits = gpt(gpt.prefix(embeds, mask, keep), given)
        changed = given.clone()
        changed[:, 3] = (changed[:, 3] + 1) % CODES
        other = gpt(gpt.prefix(embeds, mask, keep), changed)
        assert torch.equal(other[:, :4], logits[:, :4])
        assert (other[:, 4:] != logits[:, 4:]).any(-1).all()
        noisy = torch.where(mask[..., None], embeds, 7.0)
        torch.testing.assert_close(gpt(gpt.prefix(noisy, mask, keep), given), logits)
        longer = (
            torch.nn.functional.pad(embeds, (0, 0, 0, 4)),
            torch.nn.functional.pad(mask, (0, 4)),
        )
        torch.testing.assert_close(gpt(gpt.prefix(*longer, keep), given), logits, rtol=0, atol=1e-5)


def test_a_dropped_caption_is_one_null_token_whatever_it_was() -> None:
    gpt = network()
    embeds, mask = text()
    drop = torch.ones(3, dtype=torch.bool)
    prefix = gpt.prefix(embeds, mask, drop)
    assert prefix.mask.sum(1).tolist() == [1, 1, 1]
    with torch.no_grad():
        one = gpt(prefix, codes())
        alone = Prefix(gpt.text.null_token.expand(3, 1, DIM), torch.ones(3, 1, dtype=torch.bool))
        torch.testing.assert_close(gpt(alone, codes()), one, rtol=0, atol=1e-5)


def settings(**changes: Any) -> TokenSamplingConfig:
    return TokenSamplingConfig(**{"guidance_scale": 1.0, **changes})


def test_draws_have_the_probabilities_of_the_logits() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)).repeat(2000, 1)
    uniform = ((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)[:, None]

    def shares(**changes: Any) -> list[float]:
        chosen = choose(logits, uniform, settings(**changes))
        return (torch.bincount(chosen, minlength=4) / 2000).tolist()

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=1e-3)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    assert shares(top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=1e-3)
    assert shares(top_p=0.81) == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=1e-3)
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert shares(temperature=0.5) == pytest.approx((squared / squared.sum()).tolist(), abs=1e-3)
    for greedy in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-3}):
        assert shares(**greedy) == [1, 0, 0, 0]


def test_the_largest_number_draws_the_last_token_that_counts() -> None:
    logits = torch.zeros(1, 5, dtype=torch.float64)
    for top_k, last in ((0, 4), (3, 2)):
        assert choose(logits, torch.ones(1, 1).double(), settings(top_k=top_k)).item() == last


def config(**changes: Any) -> ImagenConfig:
    autoencoder = {
        "kind": "fsq", "image_size": 16, "block_out_channels": (8, 16, 16), "norm_num_groups": 4,
        "levels": (5, 5),
    }  # fmt: skip
    stage = {"kind": "tokens", "gpt": {"dim": 16, "depth": 2, "heads": 2}}
    values = {"image_sizes": [16], "autoencoders": [autoencoder], "stages": [stage]}
    return ImagenConfig(**values | changes)


def stage_of(imagen: Imagen) -> TokenStage:
    (stage,) = imagen.stages
    assert isinstance(stage, TokenStage)
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.2
            )
    return stage.eval()


def condition(imagen: Imagen, captions: list[str]) -> Condition:
    from minimagen.text.encoding import encode_batch

    encoding = encode_batch(imagen.text_encoder, captions)
    return Condition(encoding.embeds, encoding.mask)


def test_a_seed_gives_its_tokens_in_any_batch() -> None:
    imagen = Imagen(config())
    stage = stage_of(imagen)
    captions, seeds = ["a red star", "a blue ring on green", "a moon"], [7, 8, 9]
    sampling = stage.settings(guidance_scale=3.0)
    together = stage.sample(condition(imagen, captions), SeededNoise(seeds, 0), sampling)
    for i in range(3):
        alone = stage.sample(
            condition(imagen, captions[i : i + 1]), SeededNoise(seeds[i : i + 1], 0), sampling
        )
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-4)
    other = stage.sample(condition(imagen, captions), SeededNoise([1, 2, 3], 0), sampling)
    assert not torch.equal(other, together)


def test_guidance_1_is_the_conditional_model_and_0_the_unconditional_one() -> None:
    imagen = Imagen(config())
    stage = stage_of(imagen)
    given, noise = condition(imagen, ["a red star", "a moon"]), SeededNoise([1, 2], 0)

    def codes_at(scale: float, other: Condition = given) -> Tensor:
        return stage._sample_codes(other, noise, stage.settings(guidance_scale=scale), None)

    calls = []
    begin = stage.gpt.begin

    def counted(prefix: Prefix) -> Any:
        calls.append(len(prefix.mask))
        return begin(prefix)

    stage.gpt.begin = counted  # type: ignore[method-assign]
    one = codes_at(1.0)
    assert torch.equal(codes_at(1.0 + 1e-9), one)
    assert calls == [2, 4]  # both halves in one batch, and none where there is no guidance
    without = condition(imagen, ["any other words", "at all"])
    assert torch.equal(codes_at(0.0), codes_at(0.0, without))
    assert not torch.equal(codes_at(8.0), one)


def test_a_stage_learns_the_tokens_of_one_batch_by_heart_and_samples_them() -> None:
    imagen = Imagen(
        config(
            stages=[
                {
                    "kind": "tokens",
                    "gpt": {"dim": 32, "depth": 2, "heads": 2, "dropout": 0.0},
                    "token_drop_prob": 0.0,
                    "cond_drop_prob": 0.0,
                }
            ]
        )
    )
    (stage,) = imagen.stages
    assert isinstance(stage, TokenStage)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    given = condition(imagen, ["a red star", "a blue ring", "a moon"])
    batch = Batch(images, given.text_embeds, given.text_mask)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=5e-3)
    stage.train()
    for step in range(80):
        optimizer.zero_grad()
        loss = stage.loss(batch, Draws(0, 0, step, 3)).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02
    stage.eval()
    likeliest = stage.settings(guidance_scale=1.0, temperature=0.0)
    sampled = stage.sample(given, SeededNoise([4, 5, 6], 0), likeliest)
    expected = stage.autoencoder.reconstruct(images).clamp(-1, 1)
    torch.testing.assert_close(sampled, expected, rtol=0, atol=1e-4)


def test_the_loss_is_the_mean_cross_entropy_of_the_tokens() -> None:
    imagen = Imagen(config())
    stage = stage_of(imagen)
    given = condition(imagen, ["a red star", "a moon"])
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    batch, draws = Batch(images, given.text_embeds, given.text_mask), Draws(0, 0, 0, 2)
    drop = draws.uniform("drop") < stage.config.cond_drop_prob
    tokens = stage.autoencoder.tokenize(images).flatten(1)
    with torch.no_grad():
        prefix = stage.gpt.prefix(given.text_embeds, given.text_mask, drop)
        p = stage.gpt(prefix, tokens).log_softmax(-1)
        expected = -p.gather(2, tokens[..., None]).squeeze(2).mean(1)
        torch.testing.assert_close(stage.loss(batch, draws), expected)
        kept = next(stage.prepared(iter([batch])))
        assert torch.equal(stage._codes(kept), tokens)
        torch.testing.assert_close(stage.loss(kept, draws), expected)


def test_codes_that_bfloat16_has_not_are_kept_exactly() -> None:
    """As those of the shipped preset, which has 1000."""
    autoencoder = {
        "kind": "fsq", "image_size": 16, "block_out_channels": (8, 16, 16), "norm_num_groups": 4,
        "levels": (8, 5, 5, 5),
    }  # fmt: skip
    stage = stage_of(Imagen(config(autoencoders=[autoencoder])))
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    batch = Batch(images, torch.zeros(8, 1, 1), torch.ones(8, 1, dtype=torch.bool))
    kept, exact = next(stage.prepared(iter([batch]))), stage._codes(batch)
    assert exact.max() > 256 and torch.equal(stage._codes(kept), exact)


def test_a_tenth_of_the_tokens_read_in_training_is_random() -> None:
    imagen = Imagen(config())
    stage = stage_of(imagen).train()
    given = condition(imagen, ["a moon"] * 64)
    batch = Batch(torch.rand(64, 3, 16, 16) * 2 - 1, given.text_embeds, given.text_mask)
    seen: list[Tensor] = []
    forward = stage.gpt.forward

    def watched(prefix: Prefix, codes: Tensor) -> Tensor:
        seen.append(codes)
        return forward(prefix, codes)

    stage.gpt.forward = watched  # type: ignore[method-assign]
    stage.loss(batch, Draws(0, 0, 0, 64))
    tokens = stage.autoencoder.tokenize(batch.images).flatten(1)
    share = (seen[0] != tokens).double().mean()
    assert 0.1 * 0.96 * 0.7 < share < 0.1 * 0.96 * 1.3  # 24 of 25 random codes are others


def test_a_cascade_of_tokens_trains_resumes_to_the_bit_and_loads(tmp_path: Path) -> None:
    data = embedded("digits", size=16, epoch_size=64)
    both: dict[str, Any] = {
        "batch_size": 4, "chckpt_num": 2, "sample_captions": ("a red 3",), "precision": "fp32",
    }  # fmt: skip

    def run(name: str, steps: int, resume: TrainingDirectory | None = None) -> TrainingDirectory:
        config_ = TrainingConfig(steps=steps, **both)
        return train(
            Imagen(config()), data, config_, output=tmp_path / name, resume=resume, device="cpu"
        )

    whole = run("whole", 4)
    stopped = TrainingDirectory(shutil.copytree(whole.path, tmp_path / "stopped"))
    shutil.rmtree(stopped.checkpoint("gpt_0", 4))
    stopped.weights("gpt_0").unlink()
    resumed = run("resumed", 4, stopped)
    for name in ("autoencoder_0", "gpt_0"):
        one, two = (load_weights(d.weights(name)).tensors for d in (whole, resumed))
        assert all(torch.equal(one[key], two[key]) for key in one), name
    imagen = Imagen.from_directory(whole.path)
    image = imagen.sample("a red 3", seed=0)
    assert image.size == (16, 16)
    (stage,) = config().stages
    outside = stage.replace(autoencoder=str(whole.path))
    apart = Imagen(config(autoencoders=[], stages=[outside.model_dump()]))
    assert [learner.name for learner in apart.learners] == ["gpt_0"]
    assert apart.identity(0).difference(imagen.identity(1)) == ""
    with pytest.raises(UserError, match="autoencoder_0 would be trained on, and stage 0"):
        run("more", 6, whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"autoencoders": []}, "there is no autoencoder 0; this cascade has 0"),
        ({"image_sizes": [18]}, "18 x 18 pixels is not divisible by 4"),
        ({"autoencoders": [AutoencoderConfig(image_size=16).model_dump()]}, "has no tokens"),
        (
            {"autoencoders": [{"kind": "gumbel", "image_size": 16, "temperatures": [1.0, 0.0]}]},
            r"temperatures\.1: Input should be greater than 0",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        ImagenConfig.read(config().model_dump() | changes, "imagen.json")
    assert "\n" not in str(raised.value)


def test_other_sizes_and_settings_of_other_kinds_are_refused() -> None:
    imagen = Imagen(config())
    stage = stage_of(imagen)
    given = condition(imagen, ["a moon"])
    wide = Condition(given.text_embeds, given.text_mask, size=(16, 32))
    with pytest.raises(UserError, match="tokens of 16 x 16 pixels only"):
        stage.sample(wide, SeededNoise([0], 0), stage.settings())
    with pytest.raises(UserError, match="timesteps"):
        imagen.samplings(timesteps=4)
    assert imagen.samplings(top_k=3)[0].top_k == 3
    with pytest.raises(UserError, match="cannot be distilled"):
        TokenConfig().distilled(4)
