"""Greedy training: blocks train one after another, each to its end, on the output of the blocks before it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from forwardonly.data import Images
from forwardonly.network.block import Block
from forwardonly.rules import PeerGoodness
from forwardonly.system.precision import Precision, autocast
from forwardonly.training.batch import Batch
from forwardonly.training.feed import Draft, Read
from forwardonly.training.progress import Position
from forwardonly.training.session import Session
from forwardonly.training.step import Context, advance, learn
from forwardonly.training.strategies.base import Strategy
from forwardonly.training.strategies.cache import Cache, repeats
from forwardonly.training.update import Update


class Greedy(Strategy):
    """One block per phase; its input is cached where it is the same in every epoch."""

    def __init__(self, session: Session):
        super().__init__(session)
        self.phases = len(self.row)
        self.cache: Cache | None = None
        if isinstance(session.images, Images) and repeats(session.network, session.images, session.config):
            self.cache = Cache(session.network, session.images, session.feed.fixed, session.precision)

    @contextmanager
    def epoch(self, position: Position) -> Iterator[None]:
        if self.cache is not None:
            self.cache.move_to(position.phase)
        yield

    def step(self, batch: Draft, position: Position) -> Tensor:
        session, losses, index = self.session, self.losses(), position.phase
        update = session.updates[index]
        session.schedule.set_rate([update], position.run_step)
        if self.cache is not None:
            assert not isinstance(batch, Read)
            incoming = self.cache.batch(batch[session.team.part(len(batch))])
        else:
            incoming = advance(self.row[:index], session.feed(batch, position), session.precision)
        losses[index] = learn_alone(self.row, index, update, incoming, session.context(seed=None))
        return losses


def learn_alone(blocks: Sequence[Block], index: int, update: Update, batch: Batch, context: Context) -> Tensor:
    """One step of block `index` alone on its input batch. Returns its loss."""
    block = blocks[index]
    if block.needs_peers != "all":
        return learn(block, update, batch, context)[0]
    with autocast(context.precision, batch.labels.device):
        activation = block(batch.signal)
        own = block.contrastive_rule.streams(activation)
    goodness = _all_goodness(blocks, index, activation, own, batch, context.precision)
    loss = block.contrastive_rule.loss(*own, goodness)
    update(loss)
    return loss.detach()


def _all_goodness(
    blocks: Sequence[Block], index: int, activation: Tensor, own: PeerGoodness, batch: Batch, precision: Precision
) -> PeerGoodness | None:
    """The goodness of all blocks: of those before from the batch, of those behind from a pass through them."""
    detached = PeerGoodness(*(goodness.detach() for goodness in own))
    return advance(blocks[index + 1 :], batch.behind(blocks[index], activation, detached), precision).peers
