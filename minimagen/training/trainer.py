"""One loop for every learner: optimizer, schedule, clipping, accumulation, average of the weights.

The trainer knows what a ``Learner`` is and nothing of diffusion, data or files. All its randomness
is a function of (seed, learner, step), so its state is tensors and three numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minimagen.config import LearnerTrainingConfig
from minimagen.config.training import Revision
from minimagen.device import autocast, seed_device, widest_float
from minimagen.draws import Draws
from minimagen.images import Batch
from minimagen.learner import Learner
from minimagen.training.clock import in_force, planned
from minimagen.training.ema import EMA
from minimagen.training.noise_ahead import DrawsAhead, NoiseAhead
from minimagen.training.optim import build_optimizers, learning_rate
from minimagen.training.processes.alone import LossFunction, Processes


class NonFiniteLossError(Exception):
    """The loss or its gradient is not a finite number.

    Attributes:
        intact: Whether the weights are those before this step. On a GPU the fault is found some
            steps later, and the weights are lost: the last checkpoint has good ones.
    """

    def __init__(self, message: str, intact: bool) -> None:
        super().__init__(message)
        self.intact = intact


class _Step(NamedTuple):
    number: int
    loss: Tensor
    norm: Tensor  # of the gradient, over all ranks


class Trainer:
    """Trains one learner.

    Args:
        learner: What to train.
        key: What its draws depend on: a stage's index, another learner's name.
        config: Learning rate, clipping, EMA.
        total_steps: Optimizer steps of the whole run; the learning rate ends there at 0.
        seed: Of every random draw.
        accum_iter: Micro-batches per optimizer step; they change memory, not the result.
        precision: ``auto``, ``fp32`` or ``bf16``.
        processes: Those that train together, each with its rows of the batch; one by default.
    """

    def __init__(
        self,
        learner: Learner,
        key: int | str,
        config: LearnerTrainingConfig,
        total_steps: int,
        seed: int = 0,
        accum_iter: int = 1,
        precision: str = "auto",
        processes: Processes | None = None,
    ) -> None:
        self.learner, self.key, self.config = learner, key, config
        self.total_steps, self.seed = total_steps, seed
        self.accum_iter, self.precision = accum_iter, precision
        self.processes = processes or Processes()
        self._loss = self.processes.prepare(learner)  # first: sharding replaces the parameters
        self.revisions: list[Revision] = []  # of total_steps, where they follow the clock
        self._threads = torch.get_num_threads()  # where they say nothing of it
        self.step = 0
        self.rate = 0.0  # of the last step
        self.best_loss = math.inf
        self.optimizers = build_optimizers(learner, config, self.processes)
        self.ema = EMA(learner, config.ema_decay, self.processes)
        self.checks_each_step = self.device.type != "cuda"  # there the host would wait
        self.noise = NoiseAhead(self.device) if self.device.type == "cuda" else None
        self._unchecked: list[_Step] = []

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.total_steps

    @property
    def device(self) -> torch.device:
        """Return where the learner is."""
        return next(self.learner.parameters()).device

    def train_step(self, batch: Batch) -> Tensor:
        """Make one optimizer step and return the mean loss of these rows, [].

        The host does not wait for a GPU: what is not finite there is found by ``check``.

        Args:
            batch: This process's rows of the global batch, as many as every other's.

        Raises:
            NonFiniteLossError: Before anything is changed, if the gradient is not finite.
        """
        self.learner.train()
        steps, left = self._plan()
        self.rate = learning_rate(self.step, steps, self.config, left)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate
        loss = self._backward(batch)
        norm = nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.max_grad_norm)
        self._unchecked.append(_Step(self.step, loss, self.processes.whole(norm)))
        if self.checks_each_step:
            self.check()
        with autocast(self.device, self.precision):  # of Muon's products
            for optimizer in self.optimizers:
                optimizer.step()
        self.learner.after_step()
        self.learner.zero_grad()
        self.ema.update()
        self.step += 1
        self.use_threads()
        return loss

    def _plan(self) -> tuple[int, float]:
        """Return the number of steps in all, as it is planned now, and of those that are left."""
        if not self.revisions:
            return self.total_steps, self.total_steps - self.step
        return planned(self.step, self.revisions)

    def use_threads(self) -> None:
        """Give this process the threads of the plan in force, on a CPU; its sums depend on them."""
        if self.device.type == "cpu" and self.revisions:
            threads = in_force(self.step, self.revisions).threads or self._threads
            if threads != torch.get_num_threads():
                torch.set_num_threads(threads)

    def follow(self, revision: Revision) -> None:
        """Go on by a plan that was made after the last step; those of later steps do not count."""
        while self.revisions and self.revisions[-1].step >= revision.step:
            self.revisions.pop()
        self.revisions.append(revision)
        self.total_steps = revision.steps
        self.use_threads()

    def check(self) -> None:
        """Look at the steps since the last call; the host waits for them.

        Raises:
            NonFiniteLossError: If the gradient of one was not finite. It is the same on all ranks.
        """
        steps, self._unchecked = self._unchecked, []
        if not steps or bool(torch.stack([step.norm for step in steps]).isfinite().all()):
            return
        number, loss, norm = next(step for step in steps if not step.norm.isfinite())
        self.learner.zero_grad()
        raise NonFiniteLossError(
            f"{self.learner.name}, step {number}: the loss is {float(loss)}, the norm of its "
            f"gradient {float(norm)}; try a lower `optim_lr` or `precision` fp32",
            intact=number == self.step,
        )

    def _backward(self, batch: Batch) -> Tensor:
        """Return the mean loss of these rows; its gradients are averaged over all ranks."""
        first = self.processes.rank * len(batch)
        draws = self._draws(self.processes.world * len(batch))
        size = math.ceil(len(batch) / self.accum_iter)
        total = torch.zeros((), dtype=widest_float(self.device), device=self.device)
        for start in range(0, len(batch), size):
            rows = min(size, len(batch) - start)
            last = start + rows == len(batch)
            with nullcontext() if last else self.processes.unsynced(self._loss):
                micro, own_draws = batch[start : start + rows], draws.slice(first + start, rows)
                loss = self._losses(self._loss, micro, own_draws).sum() / len(batch)
                loss.backward()
            total += loss.detach()
        return total

    def _draws(self, batch_size: int) -> Draws:
        """Return the draws of this step; for a GPU their noise comes from the step before."""
        steps, left = self._plan()
        key, progress = (self.seed, self.key, self.step, batch_size), 1 - left / steps
        if self.noise is None:
            return Draws(*key, progress=progress)
        return DrawsAhead(*key, progress=progress, ahead=self.noise)

    def _losses(self, function: LossFunction, batch: Batch, draws: Draws) -> Tensor:
        """Return the loss of every example, with the network's own randomness seeded."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), autocast(self.device, self.precision):
            seed_device(self.device, draws.network_seed())
            return function(batch.to(self.device), draws)

    def validate(self, batches: Sequence[Batch]) -> float:
        """Return the EMA weights' mean loss: the same times, noise and captions every time."""
        self.learner.eval()
        total = torch.zeros(2, dtype=widest_float(self.device), device=self.device)
        with self.ema.swapped_in(), torch.inference_mode():
            for number in self.processes.share(range(len(batches))):
                batch = batches[number]
                draws = Draws(self.seed, self.key, -1 - number, len(batch))
                # learner.loss itself: without gradients there is nothing to synchronize
                loss = self._losses(self.learner.loss, batch, draws).sum()
                total += torch.stack([loss.to(total), total.new_tensor(len(batch))])
        loss_sum, count = self.processes.mean(total).tolist()
        return loss_sum / count

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a resumed run needs."""
        tensors: dict[str, Tensor] = {f"model.{n}": p for n, p in self.learner.named_parameters()}
        tensors |= {f"ema.{name}": average for name, average in self.ema.state().items()}
        for name, _, state in self._optimizer_states():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        return tensors

    def _optimizer_states(self) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        """Yield every parameter's name, itself, and its state in its optimizer."""
        names = {id(p): name for name, p in self.learner.named_parameters()}
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
        parameters = dict(self.learner.named_parameters())
        targets = {}
        for name, shape in shapes.items():
            kind, _, owner = name.partition(".")
            owner = owner.rpartition(".")[0] if kind == "optimizer" else owner
            targets[name] = _like(parameters[owner].detach(), shape)
        return targets

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for name, parameter, moments in self._optimizer_states():
            parameter.copy_(tensors[f"model.{name}"])
            # Moments must lie in memory like their parameter, or fused AdamW takes another path.
            moments |= {
                key: _like(parameter, value.shape).copy_(value)
                for key, value in _under(f"optimizer.{name}.", tensors).items()
            }
        self.ema.load(_under("ema.", tensors), state["ema_updates"])
        self.step = state["step"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]


def _like(parameter: Tensor, shape: torch.Size) -> Tensor:
    """Return an empty tensor of the parameter's kind; other shapes are those of step counters."""
    like = shape == parameter.shape
    return torch.empty_like(parameter) if like else torch.empty(shape, device=parameter.device)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
