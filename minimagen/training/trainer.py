"""One loop for anything with ``.loss()``: optimizer, schedule, clipping, accumulation, EMA.

The trainer knows the Stage protocol and nothing of diffusion, pictures or files. All its randomness
is a function of (seed, stage, step), so its state is tensors and three numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from minimagen.config import StageTrainingConfig
from minimagen.device import autocast
from minimagen.draws import Draws
from minimagen.images import Batch
from minimagen.learner import Learner
from minimagen.training.ema import EMA
from minimagen.training.optim import build_optimizers, learning_rate
from minimagen.training.processes.alone import LossFunction, Processes


class NonFiniteLossError(Exception):
    """The loss or its gradient is no longer a number; the weights are those before this step."""


class Trainer:
    """Trains one stage.

    Args:
        stage: A module with ``loss(batch, draws) -> [b]``.
        index: The stage's place in the cascade.
        config: Learning rate, clipping, EMA.
        total_steps: Optimizer steps of the whole run; the learning rate ends there at 0.
        seed: Of every random draw.
        accum_iter: Micro-batches per optimizer step; they change memory, not the result.
        precision: ``auto``, ``fp32`` or ``bf16``.
        processes: Those that train together, each with its rows of the batch; one by default.
    """

    def __init__(
        self,
        stage: Learner,
        index: int,
        config: StageTrainingConfig,
        total_steps: int,
        seed: int = 0,
        accum_iter: int = 1,
        precision: str = "auto",
        processes: Processes | None = None,
    ) -> None:
        self.stage = stage
        self.processes = processes or Processes()
        self._loss = self.processes.prepare(stage)  # before anything remembers the parameters
        self.index = index
        self.config = config
        self.total_steps = total_steps
        self.seed = seed
        self.accum_iter = accum_iter
        self.precision = precision
        self.step = 0
        self.best_loss = math.inf
        self.optimizers = build_optimizers(stage, config, self.processes)
        self.ema = EMA(stage, config.ema_decay)

    @property
    def done(self) -> bool:
        """Tell whether all steps are made."""
        return self.step >= self.total_steps

    @property
    def device(self) -> torch.device:
        """Return where the stage is."""
        return next(self.stage.parameters()).device

    def train_step(self, batch: Batch) -> float:
        """Make one optimizer step and return the mean loss of the global batch.

        Args:
            batch: This process's rows of the global batch, as many as every other's.

        Raises:
            NonFiniteLossError: Before anything is changed, if loss or gradient is not finite.
        """
        self.stage.train()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate
        loss = self.processes.mean(self._backward(batch))
        norm = nn.utils.clip_grad_norm_(self.stage.parameters(), self.config.max_grad_norm)
        norm = getattr(norm, "full_tensor", lambda: norm)()  # of sharded gradients
        if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
            self.stage.zero_grad()
            raise NonFiniteLossError(
                f"stage {self.index}, step {self.step}: the loss is {loss} (gradient norm "
                f"{float(norm)}); try a lower `optim_lr` or `precision` fp32"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self.stage.zero_grad()
        self.ema.update()
        self.step += 1
        return loss

    @property
    def rate(self) -> float:
        """Return the learning rate of the next step."""
        return learning_rate(self.step, self.total_steps, self.config)

    def _backward(self, batch: Batch) -> float:
        """Compute the gradients of the mean loss, micro-batch by micro-batch; return the loss.

        Both are of these rows; the gradients are averaged over the processes on the way.
        """
        first = self.processes.rank * len(batch)
        draws = Draws(self.seed, self.index, self.step, self.processes.world * len(batch))
        size = math.ceil(len(batch) / self.accum_iter)
        loss = 0.0
        for start in range(0, len(batch), size):
            rows = min(size, len(batch) - start)
            last = start + rows == len(batch)
            with nullcontext() if last else self.processes.unsynced(self._loss):
                micro, theirs = batch[start : start + rows], draws.slice(first + start, rows)
                part = self._losses(self._loss, micro, theirs).sum() / len(batch)
                part.backward()
            loss += float(part.detach())
        return loss

    def _losses(self, function: LossFunction, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every example, with the network's own randomness seeded."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), autocast(self.device, self.precision):
            torch.manual_seed(draws.network_seed())
            return function(batch.to(self.device), draws)

    def validate(self, batches: Sequence[Batch]) -> float:
        """Return the EMA weights' mean loss: the same times, noise and captions every time."""
        self.stage.eval()
        total, count = 0.0, 0
        with self.ema.swapped_in(), torch.inference_mode():
            for number in self.processes.share(range(len(batches))):
                batch = batches[number]
                draws = Draws(self.seed, self.index, -1 - number, len(batch))
                loss: Any = self.stage.loss  # no gradients, so nothing to synchronise
                total += float(self._losses(loss, batch, draws).sum())
                count += len(batch)
        return self.processes.mean(total) / self.processes.mean(count)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a resumed run needs."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.stage.named_parameters():
            tensors[f"model.{name}"] = parameter
        tensors |= {f"ema.{name}": average for name, average in self.ema.state().items()}
        for name, _, state in self._optimizer_states():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        return tensors

    def _optimizer_states(self) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        """Yield every parameter's name, itself, and what its optimizer remembers of it."""
        names = {id(p): name for name, p in self.stage.named_parameters()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    yield names[id(parameter)], parameter, optimizer.state[parameter]

    def state(self) -> dict[str, Any]:
        """Return all numbers that a resumed run needs; JSON."""
        best = self.best_loss if math.isfinite(self.best_loss) else None
        return {"step": self.step, "best_loss": best, "ema_updates": self.ema.updates}

    def targets(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return empty tensors to read saved ones into, each sharded like its parameter."""
        parameters = dict(self.stage.named_parameters())
        targets = {}
        for name, shape in shapes.items():
            kind, _, owner = name.partition(".")
            owner = owner.rpartition(".")[0] if kind == "optimizer" else owner
            parameter = parameters[owner].detach()
            like = shape == parameter.shape  # else it is the step counter
            targets[name] = torch.empty_like(parameter) if like else torch.empty(shape)
        return targets

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for name, parameter, moments in self._optimizer_states():
            parameter.copy_(tensors[f"model.{name}"])
            prefix = f"optimizer.{name}."
            # Moments must lie in memory like their parameter, or fused AdamW takes another path.
            moments |= {
                key.removeprefix(prefix): _laid_out_like(value, parameter)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
        ema = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
        self.ema.load(ema, state["ema_updates"])
        self.step = state["step"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]


def _laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:  # the step counter
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(value)
