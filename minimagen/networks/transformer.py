"""A GPT: a causal transformer over a grid of tokens, behind a prefix of text.

The blocks are GPT-2's (pre-LayerNorm, GELU), so that its weights fit: text stands in front as
embeddings, as in LlamaGen (arXiv 2406.06525), and each place of the grid has the sum of an
embedding of its row and one of its column. Letters of shapes: b batch, n prefix, m image tokens,
d width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from minimagen.config.networks import GPTConfig
from minimagen.config.sizes import Size
from minimagen.networks.codes import CodeVectors
from minimagen.networks.dot_product import attend
from minimagen.networks.embeddings import TextTokens

KeysValues = tuple[Tensor, Tensor]


class Block(nn.Module):
    """A pre-LayerNorm transformer block; with its names GPT-2's weights load."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.c_fc, self.mlp_proj = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(
        self, x: Tensor, attended_to: Tensor | None, cache: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Return the new states, and the keys and values of all tokens so far.

        Args:
            x: [b t d].
            attended_to: bool, to broadcast to [b heads t all]; None for all.
            cache: Keys and values of the tokens before, [b heads s head_dim] each.
        """
        queries, keys, values = rearrange(
            self.c_attn(self.ln_1(x)), "b t (three h d) -> three b h t d", three=3, h=self.heads
        )
        if cache is not None:
            keys = torch.cat([cache[0], keys], dim=2)
            values = torch.cat([cache[1], values], dim=2)
        drop = self.dropout if self.training else 0.0
        attended = attend(queries, keys, values, attended_to, drop)
        attended = self.c_proj(rearrange(attended, "b h t d -> b t (h d)"))
        x = x + F.dropout(attended, self.dropout, self.training)
        h = self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return x + F.dropout(h, self.dropout, self.training), (keys, values)


class Prefix(NamedTuple):
    """The text that image tokens follow.

    Attributes:
        tokens: [b n d].
        mask: bool [b n], True = attended to.
    """

    tokens: Tensor
    mask: Tensor


def _causal(prefix_mask: Tensor, later: int) -> Tensor:
    """Return what the tokens of a prefix and ``later`` ones behind it attend to, [b 1 t t].

    That is real text and all tokens before. A padded place attends to itself, so that no row is
    empty; no other attends to it.
    """
    real = F.pad(prefix_mask, (0, later), value=True)
    size = real.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=real.device)
    return rearrange(real, "b n -> b 1 1 n") & causal | itself


class GPT(nn.Module):
    """Image tokens behind text.

    Args:
        config: Width, depth, heads.
        codes: Number of image codes.
        grid: Rows and columns of tokens.
        text_embed_dim: Width of the text embeddings.
        levels: Values of the digit of each channel of a code; none where codes have no channels.
    """

    def __init__(
        self,
        config: GPTConfig,
        codes: int,
        grid: Size,
        text_embed_dim: int,
        levels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        dim = config.dim
        self.config, self.grid = config, grid
        self.text = TextTokens(text_embed_dim, dim)
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.codes = CodeVectors(config.embedding, codes, dim, levels)
        self.rows = nn.Parameter(torch.randn(grid[0], dim) * 0.02)
        self.columns = nn.Parameter(torch.randn(grid[1], dim) * 0.02)
        blocks = [Block(dim, config.heads, config.dropout) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.ln_f = nn.LayerNorm(dim)
        self.head = CodeVectors(config.head, codes, dim, levels)
        self.apply(self._begin)
        nn.init.normal_(self.text.null_token, std=0.02)
        for block in blocks:  # GPT-2: the residual branches add up
            for proj in (block.c_proj, block.mlp_proj):
                nn.init.normal_(proj.weight, std=0.02 / (2 * config.depth) ** 0.5)

    @staticmethod
    def _begin(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    @property
    def length(self) -> int:
        """Return the number of tokens of an image."""
        return self.grid[0] * self.grid[1]

    def prefix(self, embeds: Tensor, mask: Tensor, drop: Tensor) -> Prefix:
        """Return the text as the transformer reads it.

        Args:
            embeds: [b n text_embed_dim].
            mask: bool [b n], True = real token.
            drop: bool [b]; True replaces the caption by the one null token.
        """
        return Prefix(*self.text(embeds, mask, drop))

    def forward(self, prefix: Prefix, codes: Tensor) -> Tensor:
        """Return the logits of every token of an image, each from those before it, [b m codes].

        Args:
            prefix: The text.
            codes: int64 [b m], in the order of rows.
        """
        before = self._inputs(self.codes()[codes[:, :-1]])
        x = torch.cat([prefix.tokens, before], dim=1)
        attended_to = _causal(prefix.mask, before.shape[1])
        for block in self.blocks:
            x, _ = block(x, attended_to)
        return F.linear(self.ln_f(x[:, prefix.tokens.shape[1] :]), self.head())

    def _inputs(self, known: Tensor) -> Tensor:
        """Return the start token and the known ones [b k d], each at the place it predicts."""
        start = repeat(self.start, "d -> b 1 d", b=len(known)).to(known.dtype)
        return torch.cat([start, known], dim=1) + self._places()[: known.shape[1] + 1]

    def _places(self) -> Tensor:
        """Return the position of each place of the grid, [m d]."""
        places = rearrange(self.rows, "h d -> h 1 d") + rearrange(self.columns, "w d -> 1 w d")
        return rearrange(places, "h w d -> (h w) d")

    def begin(self, prefix: Prefix) -> "Decoding":
        """Return what generates images behind ``prefix``, token by token."""
        return Decoding(self, prefix)


class Decoding:
    """Generates the tokens of a batch one by one; keys and values of all before are kept."""

    def __init__(self, network: GPT, prefix: Prefix) -> None:
        self._network, self._prefix, self._places = network, prefix, network._places()
        self._codes, self._head = network.codes(), network.head()
        self._caches: list[KeysValues | None] = [None] * len(network.blocks)
        self._done = 0

    def next_logits(self, codes: Tensor | None = None) -> Tensor:
        """Return the logits of the next token, [b codes].

        Args:
            codes: The token before it, int64 [b]; None for the first one.
        """
        network, prefix = self._network, self._prefix
        if codes is None:
            first = network._inputs(
                self._codes.new_zeros(len(prefix.mask), 0, self._codes.shape[1])
            )
            x = torch.cat([prefix.tokens, first], dim=1)
            attended_to = _causal(prefix.mask, 1)
        else:
            x = rearrange(self._codes[codes] + self._places[self._done], "b d -> b 1 d")
            real = F.pad(prefix.mask, (0, self._done + 1), value=True)
            attended_to = rearrange(real, "b n -> b 1 1 n")
        for i, block in enumerate(network.blocks):
            x, self._caches[i] = block(x, attended_to, self._caches[i])
        self._done += 1
        return F.linear(network.ln_f(x[:, -1]), self._head)
