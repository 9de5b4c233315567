"""The training loop: accumulate, backward, clip, step, average, preview, checkpoint, log.

It knows nothing of recipes and model families. What is trained, the loss and the source of the rows
are given to it; every random draw is made from the sample numbers it hands out (P1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, cast

import torch
from torch import Tensor, nn

from finetune.config import OptimizerSection, TrainingSection
from finetune.errors import ConfigError, Interrupted
from finetune.kernels import give_back_freed_memory
from finetune.training.average import make_average
from finetune.training.checkpoint import Checkpoint, keep_checkpoint, load_optimizer_state, optimizer_counters
from finetune.training.device import check_alone, make_accelerator
from finetune.training.groups import logged_rates, rate_groups, set_rates
from finetune.training.guards import Guards
from finetune.training.in_backward import InBackward
from finetune.training.metrics import Metrics, mean_losses
from finetune.training.optimizers import make_optimizer, rate_factor
from finetune.training.progress import Progress, stop_signal
from finetune.training.protocols import Hook, Loss, RowsT, Source, Trained
from finetune.training.resume import check_fit, check_identity, newest_intact
from finetune.training.run_folder import RunFolder
from finetune.training.speed import in_steps
from finetune.training.trackers import Trackers
from finetune.training.watcher import Event, Tally, Watcher, all_told


class Trainer(Generic[RowsT]):
    """Trains `model` on `source` by `objective`.

    Args:
        model: A module that is also `Trained`, such as an `Adapter`.
        objective: The loss of each row.
        source: Where the rows come from.
        training: Steps, batch, precision, checkpoints.
        optimizer: Optimizer, rates, schedule.
        folder: Where checkpoints and metrics go.
        hooks: Pairs of (steps between calls, what to call), such as previews.
        identity: What the run is (plain data); resuming with another identity is refused.
        watcher: Is told of every step, in the main process; None shows them on the terminal.

    Raises:
        ConfigError: If the precision or the optimizer is not available on this machine, or steps inside the
            backward pass are not with several processes, or a learning rate is given for what is not trained.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Loss[RowsT],
        source: Source[RowsT],
        training: TrainingSection,
        optimizer: OptimizerSection,
        folder: RunFolder,
        *,
        hooks: Sequence[tuple[int, Hook]] = (),
        identity: Mapping[str, Any] | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.training, self.folder, self.source, self.objective = training, folder, source, objective
        self.hooks, self.identity = [pair for pair in hooks if pair[0]], dict(identity or {})
        self.trained = cast("Trained", model)
        trainable = self.trained.groups()
        self.groups = rate_groups(trainable, optimizer, training.steps)
        self.accelerator = make_accelerator(training, trains_text=any(g.text for g in self.groups))
        self.parameters = {name: p for group in self.groups for name, p in group.parameters}
        for name, parameter in (pair for group in trainable for pair in group.parameters):
            parameter.requires_grad_(name in self.parameters)
        self.optimizer = make_optimizer(
            [{"params": [p for _, p in group.parameters], "lr": group.rate} for group in self.groups],
            optimizer,
        )
        self.rate_factor = rate_factor(optimizer, training.steps)
        if training.gradient_checkpointing:
            self.trained.enable_gradient_checkpointing()
        if inside := optimizer.in_backward:
            check_alone(self.accelerator)
        self.in_backward = InBackward(self.parameters.values(), self.optimizer) if inside else None
        self.model, self.optimizer = self.accelerator.prepare(model, self.optimizer)
        self.average = make_average(self.parameters, self.optimizer, training, optimizer)
        self.watcher = (watcher or Progress()) if self.accelerator.is_main_process else Watcher()
        self.step, self.stopped = 0, False
        self.guards = Guards(self.accelerator, folder, training.steps)
        self.notes: tuple[str, ...] = ()

    @property
    def rows_per_step(self) -> int:
        """Samples that one optimizer step sees, over all processes."""
        return self.training.samples_per_step(self.accelerator.num_processes)

    def run(self) -> None:
        """Trains up to `training.steps`, from wherever `resume` left off.

        Raises:
            NonFiniteLoss: If the loss, a gradient or a weight becomes NaN or infinite; the last checkpoint
                is untouched.
            Interrupted: On SIGINT, SIGTERM or SIGHUP, after a checkpoint was written.
        """
        self._trackers = Trackers(self.training, self.folder, self.identity, self.step, self.accelerator)
        with self.trained.faster(self.training.packed_weights, self.training.fuses), self._trackers:
            self._run()

    def _run(self) -> None:
        metrics = Metrics(self.folder.metrics, self.step) if self.accelerator.is_main_process else None
        self.model.train()
        tally = Tally(self.watcher, self.folder, self.accelerator.device, self.rows_per_step)
        with stop_signal(self.watcher.stopping) as stop, tally.over(self.training.steps, self.step):
            if self.step:  # a kill or an interruption may have come between the last checkpoint and its hooks
                self._call_hooks()
            tally.restart()
            for losses, norm in self._steps():
                rates = logged_rates(self.optimizer, self.groups)
                values = tally.step(self.step, {**losses, "grad_norm": norm, **rates})
                if metrics and (self.step % self.training.log_every == 0 or self._done):
                    metrics.write(self.step, **values)
                    self._trackers.log(self.step, values)
                stopping = self.guards.any_process(stop.asked)
                if self.step % self.training.checkpoint_every == 0 or self._done or stopping:
                    self.save()
                if stopping and not self._done:
                    raise Interrupted(
                        f"Stopped after step {self.step}; a checkpoint was written. Continue with --resume."
                    )
                self._call_hooks()
                tally.restart()

    def save(self) -> None:
        """Writes a checkpoint of the current step and removes old ones; returns when it is on disk.

        Raises:
            NonFiniteLoss: In all processes, if anything in it is not finite.
            PlaceError: If it cannot be written; the last checkpoint is untouched.
        """
        scaler = self.accelerator.scaler
        checkpoint = Checkpoint(
            step=self.step,
            weights=dict(self.parameters),
            average=self.average.values if self.average else {},
            optimizer=self.optimizer.state_dict()["state"],
            counters=optimizer_counters(self.optimizer),
            scaler=scaler.state_dict() if scaler else {},
            run=self.identity,
        )
        self.guards.weights(checkpoint)
        if self.accelerator.is_main_process:
            keep_checkpoint(self.folder, checkpoint)
            self.folder.prune(self.training.keep_checkpoints, self.training.checkpoint_every)
            self.watcher.happened(self.step, Event("checkpoint", self.folder.checkpoint(self.step)))
        self.accelerator.wait_for_everyone()

    def resume(
        self, words: Mapping[str, str] | None = None, again: str = "Use the settings it began with."
    ) -> bool:
        """Loads the newest intact checkpoint of the run folder; False if there is none.

        Newer, damaged ones are renamed to `step-000400.damaged` and reported in `notes`.

        Args:
            words: What to say of a part of the identity that has changed, by its name.
            again: How to resume with the original settings, a sentence.

        Raises:
            ConfigError: If the checkpoint is of a run with other settings.
            WeightsError: If every checkpoint is damaged, or the newest intact one is not of this run.
        """
        checkpoint, damaged = newest_intact(self.folder)
        if checkpoint is None:
            return False
        path = self.folder.checkpoint(checkpoint.step)
        check_identity(checkpoint.run, self.identity, self.folder.path, words or {}, again)
        if checkpoint.step > self.training.steps:
            raise ConfigError(
                f"The run has taken {checkpoint.step} steps already, more than the {self.training.steps} "
                "requested.",
                where=f"training.steps = {self.training.steps}, {path}",
                fix=f"Set training.steps to {checkpoint.step} or more.",
            )
        self._load(checkpoint, path, again)
        if self.accelerator.is_main_process:
            for folder in damaged:
                folder.rename(folder.with_name(f"{folder.name}.damaged"))
            self.folder.prune(self.training.keep_checkpoints, self.training.checkpoint_every)
        self.accelerator.wait_for_everyone()
        self.notes = tuple(f"{folder}: {error.what} It was renamed to {folder.name}.damaged."
                           for folder, error in damaged.items())  # fmt: skip
        return True

    def _load(self, checkpoint: Checkpoint, path: Path, again: str) -> None:
        averages = self.average.values if self.average else {}
        check_fit(checkpoint.weights, self.parameters, path, again)
        check_fit(checkpoint.average, averages, path, again)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(checkpoint.weights[name])
        if self.average:
            self.average.load(checkpoint.average)
        load_optimizer_state(self.optimizer, checkpoint.optimizer, checkpoint.counters)
        if self.accelerator.scaler and checkpoint.scaler:
            self.accelerator.scaler.load_state_dict(dict(checkpoint.scaler))
        self.step = checkpoint.step

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the averaged weights are in place (if there are any) and dropout is off."""
        self.model.eval()
        with self.average.in_place() if self.average else nullcontext():
            yield
        self.model.train()

    @property
    def _done(self) -> bool:
        return self.stopped or self.step >= self.training.steps

    def _steps(self) -> Iterator[tuple[dict[str, float], float]]:
        """Takes one optimizer step after another, yielding its losses and gradient norm."""
        # The next rows are fetched while this step computes, by one thread: more would wait for work by
        # spinning, which takes the processors from the step.
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as ahead:
            pending, first = ahead.submit(self._batches, self.step), self.step
            fast = in_steps(self.model, self.training)
            while not self._done:
                batches = pending.result()
                if self.step + 1 < self.training.steps:
                    pending = ahead.submit(self._batches, self.step + 1)
                with fast():
                    done = self._step(batches)
                yield done
                if self.step == first + 1:
                    give_back_freed_memory()  # what was needed only to begin

    def _batches(self, step: int) -> list[RowsT]:
        size, processes = self.training.batch_size, self.accelerator.num_processes
        first = step * self.rows_per_step + self.accelerator.process_index * size
        starts = [first + k * size * processes for k in range(self.training.accumulation)]
        batches = (batch for start in starts for batch in self.source.batches(range(start, start + size)))
        return [batch.to(self.accelerator.device) for batch in batches]

    def _step(self, batches: list[RowsT]) -> tuple[dict[str, float], float]:
        """One optimizer step on one or more accumulated batches: the mean losses, the gradient's norm."""
        set_rates(self.optimizer, self.groups, self.step, self.rate_factor(self.step))
        each: list[Tensor] = []
        waiting: Tensor | float = 0.0
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                self.trained.set_samples(batch.numbers, self.training.seed)
                losses = self.objective(self.model, batch)
                each.append(losses.detach())
                # The backward pass averages over processes and sums over batches.
                loss = waiting + losses.sum() * (self.accelerator.num_processes / self.rows_per_step)
                if self.in_backward and not last:
                    waiting = loss  # a weight is stepped once, with the gradient of all rows
                else:
                    self.accelerator.backward(loss)
        norm = self._clip()
        # The only time that the step waits for a GPU: nothing is looked at before all of it is queued.
        *found, size = torch.cat([*each, norm.reshape(1)]).tolist()
        self.guards.losses(self.step + 1, found, [name for batch in batches for name in batch.names])
        self.guards.gradient(self.step + 1, size)
        if self.in_backward is None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.step += 1
        if self.average:
            self.average.update(self.step)
        learned = [new for batch in batches for new in batch.learned]
        return mean_losses(self.accelerator, found, learned), size

    def _clip(self) -> Tensor:
        """Clips the gradient, if it is still there; its norm before."""
        if self.in_backward:
            return self.in_backward.finish()
        limit = self.training.max_grad_norm or math.inf
        norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters.values(), limit)
        return norm

    def _call_hooks(self) -> None:
        due = [hook for every, hook in self.hooks if self.step % every == 0 or self._done]
        if not due:
            return
        said = Event("hooks")
        if self.accelerator.is_main_process:
            with self.evaluating():
                said = all_told(self.watcher, self.step, [hook(self.step) for hook in due])
            self._trackers.show(self.step, said.values)
        self.accelerator.wait_for_everyone()
        self.stopped = self.guards.any_process(said.stop)
        if self.guards.any_process(said.keep and not self.folder.checkpoint(self.step).exists()):
            self.save()
