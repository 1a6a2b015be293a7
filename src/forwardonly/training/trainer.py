"""The trainer: epochs, validation and checkpoints of a run.

The strategy determines how a batch passes through the blocks.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forwardonly.data.matching import digest
from forwardonly.data.streams import Passing
from forwardonly.data.taking import Data
from forwardonly.measure.accuracy import AT_A_TIME
from forwardonly.network.localized import Localized
from forwardonly.system import mapped
from forwardonly.training.config import RESUMABLE
from forwardonly.training.distributed.team import LostPeer
from forwardonly.training.feed import Draft
from forwardonly.training.interrupt import Interrupted
from forwardonly.training.progress import Position, Progress, StepEvent
from forwardonly.training.runs import figures
from forwardonly.training.runs import folder as run_folder
from forwardonly.training.session import Session
from forwardonly.training.strategies import Strategy


class NonFiniteLoss(ValueError):
    """A loss or a weight became NaN or infinite."""


class Trainer:
    """A run in progress.

    Args:
        session: network, data and settings of the run.
        strategy: how batches pass through the blocks.
        folder: the run's, if it has one.
        at_a_time: images that are predicted at a time.
        validation: data to report figures on after each epoch.
        other: data to see on what is forgotten.
    """

    def __init__(
        self,
        session: Session,
        strategy: Strategy,
        folder: Path | None,
        at_a_time: int = AT_A_TIME,
        validation: Data | None = None,
        other: Data | None = None,
    ):
        self.session = session
        self.strategy = strategy
        self.folder = folder
        self.at_a_time = at_a_time
        self.validation = validation
        self.other = other
        self.steps = session.schedule.steps_per_epoch
        self.progress = Progress()
        self.losses = torch.zeros(self.steps, len(session.updates), device=session.device)
        self.summed_losses = self.losses  # over processes; up to date once they have synced
        self.data: str | None = None  # digest of the images that the run learns from, once it is known
        self._learned_from = [session.images]
        self._unfinished: list[tuple[int, Tensor]] = []  # losses that are valid once the strategy has finished

    def train(
        self, notify: Callable[[StepEvent], None] | None, interrupted: threading.Event
    ) -> Iterator[dict[str, Any]]:
        """Trains epoch by epoch from the current position; yields each epoch's row of the history."""
        session, progress = self.session, self.progress
        total = self.strategy.phases * session.config.epochs * self.steps
        while progress.phase < self.strategy.phases:
            session.network.train()
            started = time.perf_counter()
            drafts = session.feed.drafts(progress.phase, self._position().run_step)
            for block in session.network.row:
                block.rule.start_epoch(progress.epoch)
            with self.strategy.epoch(self._position()):
                while progress.step < self.steps:
                    self._step(next(drafts))
                    if notify is not None:
                        notify(StepEvent(self._steps_done(), total))
                    if interrupted.is_set():
                        progress.seconds += time.perf_counter() - started
                        raise Interrupted(self._interrupted())
                    if self.folder is not None and self._checkpoint_due(progress.step):
                        self._sync()
                        self._checkpoint(progress.seconds + time.perf_counter() - started)
            self._sync()
            progress.seconds += time.perf_counter() - started
            row = self._row(time.perf_counter() - started)
            self._next_epoch()
            yield row
            if self.folder is not None:
                self._checkpoint(progress.seconds)
            if notify is not None:
                notify(StepEvent(self._steps_done(), total, row))

    def _step(self, draft: Draft) -> None:
        """One step on the next batch of the epoch."""
        session, step = self.session, self.progress.step
        position = self._position()
        if session.must_turn(position.run_step):
            self.strategy.finish()
            session.turn()
        torch.manual_seed(session.feed.dropout_seed(position))
        losses = self.strategy.step(draft, position)
        session.team.finish()
        self._unfinished.append((step, losses))
        self.progress.step += 1
        session.team.note_step(self._steps_done())

    def _position(self) -> Position:
        progress = self.progress
        run_step = progress.epoch * self.steps + progress.step
        last = progress.step + 1 == self.steps or self._checkpoint_due(progress.step + 1)
        return Position(progress.phase, progress.epoch, progress.step, run_step, last)

    def _steps_done(self) -> int:
        epochs = self.progress.phase * self.session.config.epochs + self.progress.epoch
        return epochs * self.steps + self.progress.step

    def _next_epoch(self) -> None:
        progress = self.progress
        progress.step = 0
        progress.epoch += 1
        if progress.epoch == self.session.config.epochs:
            progress.epoch = 0
            progress.phase += 1

    def _checkpoint_due(self, done: int) -> bool:
        """Whether a checkpoint within the epoch is due after `done` of its steps."""
        every = self.session.config.checkpoint_every
        return every is not None and done % every == 0 and done < self.steps

    def _sync(self) -> None:
        """Gives all processes, at the same step, all weights and losses, and checks that these are finite."""
        team = self.session.team
        self._finish_steps()
        team.sync(self.session.network, self.strategy.placement)
        self.summed_losses = team.all_reduce(self.losses)
        self._check_finite()

    def _finish_steps(self) -> None:
        self.strategy.finish()
        if self.session.device.type == "cuda":  # also copies of offloaded blocks, whose weights are read next
            torch.cuda.synchronize(self.session.device)
        share = self.session.team.weight(self.session.batch_size)
        for step, losses in self._unfinished:
            self.losses[step] = losses * share
        self._unfinished.clear()

    def _check_finite(self) -> None:
        """Raises NonFiniteLoss if a loss is not finite, or a weight, which the last step may have spoilt."""
        epoch, instead = self.progress.epoch, "try a lower learning rate or --precision fp32."
        bad = (~torch.isfinite(self.summed_losses)).nonzero()
        if len(bad):
            step, block = bad[0].tolist()
            value = float(self.summed_losses[step, block])
            raise NonFiniteLoss(f"The loss of block {block} became {value} in epoch {epoch}, step {step}: {instead}")
        for index, block in enumerate(self.session.network.row):
            mapped.release()  # the block before, if it is in a file
            if not all(map(_finite, block.parameters())):
                raise NonFiniteLoss(
                    f"A weight of block {index} became NaN or infinite in epoch {epoch}, by step "
                    f"{self.progress.step - 1}: {instead}"
                )

    def _row(self, seconds: float) -> dict[str, Any]:
        session, config, epoch = self.session, self.session.config, self.progress.epoch
        sums, learned = self.summed_losses.sum(0).tolist(), session.schedule.steps_in_epoch(epoch)
        row: dict[str, Any] = {
            "epoch": self.progress.phase * config.epochs + epoch,
            "loss": [total / steps if steps else None for total, steps in zip(sums, learned, strict=True)],
            "seconds": seconds,
            "learning_rate": config.learning_rate * session.schedule.rate_factor((epoch + 1) * self.steps - 1),
        }
        if self.strategy.phases > 1:
            row["block"] = self.progress.phase
        row.update(figures.watched(session))
        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs
        if due:
            figures.measure(row, session, self.validation, self.other, self.at_a_time)
        return row

    def look_before(self) -> None:
        """Measures a model that `localize` cut before its first step, and any network that may forget other data.

        Raises:
            ValueError: it cannot be measured on the other data, which is better known before a run than after it.
        """
        progress = self.progress
        if progress.before or progress.history or progress.step > 0:
            return
        if self.other is None:
            if isinstance(self.session.network, Localized):
                figures.measure(progress.before, self.session, self.validation, None, self.at_a_time)
            return
        try:
            found = figures.of_other(self.session, self.other, self.at_a_time)
        except LostPeer:
            raise
        except Exception as problem:  # a model may raise anything, and data too
            raise ValueError(f"The network cannot be measured on the other data: {problem}") from None
        figures.measure(progress.before, self.session, self.validation, None, self.at_a_time)
        progress.before.update(found)

    def open(self, extra: dict[str, Any], resume: bool, validation: Data | None = None) -> None:
        """Makes the run folder, or restores its checkpoint; all processes start from the leading one's state.

        `validation` are images that the run learns from too, as some readouts do; a resumed run must have the same.

        `extra` is stored in the folder's config with the network's config and the training config.

        Raises:
            ValueError: there is no run to resume, it is damaged or had other options, or the folder cannot be written.
        """
        team, state = self.session.team, None
        self._learned_from = [self.session.images, *([] if validation is None else [validation])]
        if self.folder is not None and team.leads:
            session = self.session
            config = {"network": session.network.config, "training": asdict(session.config), "seed": session.seed}
            config = {**config, "precision": session.precision, **extra}
            if resume:
                state = run_folder.resume(self.folder, config)
                if state is None:
                    run_folder.go_on(self.folder, config)
            else:
                run_folder.start(self.folder, config)
        if team.alone and state is None:
            return
        if team.leads and state is None:
            state = self._state(0.0, [update.state_dict() for update in self.session.updates])
        state = team.broadcast(state, self.session.device)
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as problem:
            raise ValueError(
                f"The checkpoint in {self.folder} belongs to another network or is damaged ({type(problem).__name__})."
            ) from None
        if self.folder is not None and team.leads and resume:  # it may go on
            run_folder.go_on(self.folder, config)

    def _checkpoint(self, seconds: float) -> None:
        team = self.session.team
        own = [update.state_dict() for update in self.session.updates]
        state = self._state(seconds, team.gathered(own, self.strategy.placement, self.session.device))
        if self.folder is not None and team.leads:
            run_folder.write_checkpoint(self.folder, state, self.progress.history)

    def _state(self, seconds: float, updates: list[Any]) -> dict[str, Any]:
        """The state of the run for a checkpoint, with the states of all updates."""
        session, classifier = self.session, self.session.feed.classifier_update
        return {
            "network": session.network.state_dict(),
            "updates": updates,
            "label_classifier": None if classifier is None else classifier.state_dict(),
            "progress": {**asdict(self.progress), "seconds": seconds},
            "losses": self.summed_losses,
            "micro_batch": session.micro_batch,
            "training": asdict(session.config),
            "precision": session.precision,
            "data": self._digest(),
            "seed": session.seed,
            "place": session.feed.place(),
        }

    def _digest(self) -> str | None:
        """Of the training images, if there is a folder whose checkpoints need it."""
        if self.data is None and self.folder is not None and self.session.team.leads:
            self.data = self._digest_now()
        return self.data

    def _digest_now(self) -> str:
        return "-".join(map(digest, self._learned_from))

    def _restore(self, state: dict[str, Any]) -> None:
        session, classifier = self.session, self.session.feed.classifier_update
        self._refuse_changes(state)
        session.network.load_state_dict(state["network"])
        for update, update_state in zip(session.updates, state["updates"], strict=True):
            update.load_state_dict(update_state)
        if classifier is not None:
            classifier.load_state_dict(state["label_classifier"])
        self.progress = Progress(**state["progress"])
        if state["training"].get("memory_budget") == session.config.memory_budget:
            session.micro_batch = None if state["micro_batch"] is None else int(state["micro_batch"])
        progress = self.progress
        self._extend(state["training"]["epochs"])
        within = progress.phase <= self.strategy.phases and progress.epoch < session.config.epochs
        least = min(progress.phase, progress.epoch, progress.step, (session.micro_batch or 1) - 1)
        if not within or progress.step > self.steps or least < 0 or state["losses"].shape != self.losses.shape:
            raise ValueError(f"The checkpoint in {self.folder} is damaged or of other data.")
        if session.team.leads:  # losses are summed over processes: one holds the sum so far
            self.losses.copy_(state["losses"])
        if isinstance(session.images, Passing) and (place := state.get("place")) is not None:
            session.images.resume(place)

    def _refuse_changes(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the run had other options that decide what it learns, or learned from other images."""
        session = self.session
        then = {name: value for name, value in state["training"].items() if name not in RESUMABLE}
        then.update(seed=state["seed"], precision=state.get("precision", session.precision))
        now = {**asdict(session.config), "seed": session.seed, "precision": session.precision}
        for name, value in then.items():
            if now.get(name) != value:
                raise ValueError(
                    f"The run in {self.folder} had {name} {value}, not {now.get(name)}: resume it with that."
                )
        if session.config.epochs < state["training"]["epochs"]:
            raise ValueError(
                f"The run in {self.folder} had {state['training']['epochs']} epochs, not {session.config.epochs}: "
                "resume it with as many, or with more."
            )
        before, now_steps = state["training"].get("steps"), session.config.steps
        if (before is None) != (now_steps is None) or (before and before // state["training"]["epochs"] != self.steps):
            had = f"steps {before} in {state['training']['epochs']} epochs"
            raise ValueError(
                f"The run in {self.folder} had {had}, not {now_steps} in {session.config.epochs}: resume it with as "
                "many steps in an epoch."
            )
        if (learned := state.get("data")) is not None and learned != (self.data or self._digest_now()):
            raise ValueError(
                f"The run in {self.folder} learned from other images, labels or class names than these "
                f"{self._count()}of {session.images.name}: resume it with the same."
            )
        self.data = learned

    def _count(self) -> str:
        count = self.session.feed.count
        return "" if count is None else f"{count} "

    def _extend(self, before: int) -> None:
        """Lets a run that had `before` epochs go on to the config's number, from where it stands."""
        progress = self.progress
        if self.session.config.epochs == before:
            return
        if progress.phase > 0 and self.strategy.phases > 1:
            raise ValueError(
                f"The run in {self.folder} trains one block after another and has done the first with {before} epochs: "
                "it cannot go on with more."
            )
        if progress.phase > 0:  # it was finished
            progress.phase, progress.epoch = 0, before

    def _interrupted(self) -> str:
        go_on = f"the same command with --resume --out {self.folder} goes on"
        if self.folder is None:
            return "Interrupted; nothing was saved, for the run has no folder."
        if not self.session.team.alone:
            return f"Interrupted; {go_on} from the last checkpoint."
        self._finish_steps()
        self._check_finite()
        self._checkpoint(self.progress.seconds)
        return f"Interrupted; a checkpoint is in {self.folder}: {go_on}."

    def finish(self, test: Data | None, extra: dict[str, Any]) -> dict[str, Any]:
        """The final result with the `extra` figures; writes it and the network to the run folder."""
        session, progress = self.session, self.progress
        result = {**figures.result_of(session, progress.seconds, self.validation, test, self.at_a_time), **extra}
        if progress.before:
            result["before"] = progress.before
        if self.other is not None:
            figures.remember(result, session, self.other, self.at_a_time)
        for text in (
            *figures.unmoved(session, progress.history, self.summed_losses),
            *figures.unreached(session.network),
            *figures.nearly_black(session.images),
        ):
            figures.note(result, text)
        if self.folder is not None and session.team.leads:
            with figures.kept(result, figures.AFTER, "writing the run"):
                run_folder.finish(self.folder, session.network, progress.history, result, self._digest())
        return result


def _finite(weight: Tensor) -> bool:
    """Whether all its values are finite, by its extremes: `isfinite` of it would take more memory than it does."""
    return weight.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all())
