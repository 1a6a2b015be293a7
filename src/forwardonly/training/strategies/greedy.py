"""Blocks train one after another, each to its end, on what the blocks before it make of the images by then."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from forwardonly.network.block import Block
from forwardonly.rules import PeerGoodness
from forwardonly.system.precision import Precision, autocast
from forwardonly.training.batch import Batch
from forwardonly.training.progress import Position
from forwardonly.training.session import Session
from forwardonly.training.step import Context, advance, learn
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.strategies.cache import Cache, repeats
from forwardonly.training.update import Update


class Greedy(Strategy):
    """One block a phase; what is in front of it is computed once where no epoch changes it."""

    def __init__(self, session: Session):
        super().__init__(session)
        self.phases = len(self.row)
        self.cache: Cache | None = None
        if repeats(session.network, session.images, session.config):
            self.cache = Cache(session.network, session.images, session.feed.fixed, session.precision)

    @contextmanager
    def epoch(self, position: Position) -> Iterator[None]:
        if self.cache is not None:
            self.cache.move_to(position.phase)
        yield

    def step(self, batch: Tensor, position: Position) -> Tensor:
        session, losses, index = self.session, self.losses(), position.phase
        update = session.updates[index]
        session.schedule.set_rate([update], position.run_step)
        if self.cache is not None:
            arrived = self.cache.batch(batch[session.team.part(len(batch))])
        else:
            arrived = advance(self.row[:index], session.feed(batch, position), session.precision)
        losses[index] = learn_alone(self.row, index, update, arrived, session.context(seed=None))
        return losses


def learn_alone(blocks: Sequence[Block], index: int, update: Update, batch: Batch, context: Context) -> Tensor:
    """One step of block `index` alone on the batch in front of it; returns its loss."""
    block = blocks[index]
    if block.needs_peers != "all":
        return learn(block, update, batch, context)[0]
    with autocast(context.precision, batch.labels.device):
        activation = block(batch.signal)
        own = block.contrastive_rule.streams(activation)
    everyone = _everyone(blocks, index, activation, own, batch, context.precision)
    loss = block.contrastive_rule.loss(*own, everyone)
    update(loss)
    return loss.detach()


def _everyone(
    blocks: Sequence[Block], index: int, activation: Tensor, own: PeerGoodness, batch: Batch, precision: Precision
) -> PeerGoodness | None:
    """The goodness of all blocks: of those before as the batch has it, of those behind as they now are."""
    detached = PeerGoodness(*(goodness.detach() for goodness in own))
    return advance(blocks[index + 1 :], batch.behind(blocks[index], activation, detached), precision).peers
