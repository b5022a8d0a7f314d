"""Compiled blocks: the same loss and weights, names as before, few graphs, no compilation twice."""

import copy
import math
import shutil
from collections.abc import Iterator

import pytest
import torch

from minimagen.config import DiffusionConfig, LearnerTrainingConfig
from minimagen.networks import compilation
from minimagen.networks.attention import Attention
from minimagen.networks.blocks import ResBlock
from minimagen.networks.compilation import TEXT_LENGTHS, pad_text
from minimagen.stages.diffusion import DiffusionStage
from minimagen.training.trainer import Trainer

# torch itself looks at the gradients of what it traces
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
SHAPE = {
    "dim": 8,
    "dim_mults": (1,),
    "num_resnet_blocks": 2,
    "layer_attns": True,
    "attn_heads": 2,
    "attn_head_dim": 4,
}


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """Trace as ``torch.compile`` does, but run the graphs without a compiler: that is quick."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **o: real(f, backend="eager", **o))
    compilation._compiled.cache_clear()
    torch._dynamo.reset()
    yield torch._dynamo.utils.counters
    compilation._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def make_trainer(text_encoder, wake):
    def make(compiled: bool, recompute: bool = False) -> Trainer:
        torch.manual_seed(0)
        config = DiffusionConfig(unet=SHAPE)
        stage = DiffusionStage(1, config, (16, 16), (8, 8), text_encoder.embed_dim)
        wake(stage)
        stage.compile_blocks(compiled)
        stage.recompute_activations(recompute)
        return Trainer(stage, 1, LearnerTrainingConfig(), 10, precision="fp32")

    return make


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.learner.parameters()])


def test_a_compiled_step_is_the_step_also_with_activation_checkpointing(
    counters, make_trainer, make_batch
):
    batch, plain = make_batch(4, 16, 8), make_trainer(compiled=False)
    compiled = make_trainer(compiled=True, recompute=True)
    for trainer in (plain, compiled):
        loss = trainer.train_step(batch)
        assert math.isfinite(float(loss))
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=2e-5)
    assert compiled.tensors().keys() == plain.tensors().keys()
    assert [*compiled.learner.state_dict()] == [*plain.learner.state_dict()]
    assert not counters["graph_break"]
    modules = [*compiled.learner.modules()]
    blocks = sum(isinstance(module, ResBlock | Attention) for module in modules)
    assert 3 <= counters["stats"]["unique_graphs"] < blocks  # equal shapes share one


def test_other_captions_sampling_and_a_copy_compile_nothing_again(
    counters, make_trainer, make_batch
):
    trainer = make_trainer(compiled=True)
    batches = [make_batch(n, 16, 8) for n in (3, 3, 5)]
    assert batches[0].text_embeds.shape[1] == 8
    trainer.train_step(batches[0])
    longer = pad_text(batches[1].text_embeds, batches[1].text_mask)
    other = batches[1].__class__(batches[1].images, *longer, (), batches[1].low_res)
    with torch.compiler.set_stance("fail_on_recompile"):
        trainer.train_step(other)  # 32 tokens as they come, 8 before
        trainer.validate([batches[2]])  # another batch size, without gradients
        copied = copy.deepcopy(trainer.learner)
        before = [p.clone() for p in copied.parameters()]
        trainer.train_step(batches[0])
    assert all(map(torch.equal, copied.parameters(), before))


def test_captions_are_padded_to_few_lengths():
    found = {n: pad_text(torch.ones(2, n, 3), torch.ones(2, n, dtype=bool)) for n in range(1, 600)}
    assert {len(mask[0]) for _, mask in found.values()} == {*TEXT_LENGTHS, 512, 768}
    for n, (embeds, mask) in found.items():
        assert embeds.shape[1] == mask.shape[1] >= n
        assert mask.sum() == 2 * n and embeds.sum() == 6 * n


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_what_the_compiler_makes_computes_the_same():
    torch.manual_seed(0)
    block, x, embedding = ResBlock(8, 8, 6, 0.0, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    torch.nn.init.normal_(block.conv_out.weight)
    results = []
    for compiled in (False, True):
        block.compiled = compiled
        y = block(x, embedding)
        gradients = torch.autograd.grad(y.square().sum(), [*block.parameters()])
        results.append([y, *gradients])
    assert compilation._compiled.cache_info().currsize == 1
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
