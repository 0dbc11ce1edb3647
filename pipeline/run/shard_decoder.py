"""Bring the frames of shards into memory, cut to size where that is done at once."""

from __future__ import annotations

import math
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial

from pipeline.config import Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.fallback import decode_chunk, num_images
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.shared_memory import BufferBlock, BufferPool, FrameBuffer, aligned
from pipeline.encode.engine import Engine
from pipeline.encode.preprocess import preprocess_decoded, preprocesses_on_arrival, staged_size
from pipeline.records import Chunk, FrameBatch, Shard


@dataclass(frozen=True)
class Decoded:
    """The frames of a shard, and the memory that they lie in."""

    shard: Shard
    batches: tuple[FrameBatch, ...]
    block: BufferBlock | None


class ShardDecoder:
    """
    Decodes shards, each chunk in a process of its own, and lends the memory of their pictures.

    Args:
        pool: processes that decode.
        engine: for which frames are cut to size.
        sampling: which frames.
        keep: shards whose memory is kept for the next ones.
    """

    def __init__(self, pool: DecodePool, engine: Engine, sampling: Sampling, keep: int) -> None:
        self._pool, self._engine, self._sampling = pool, engine, sampling
        self.blocks = BufferPool(keep)

    def decode(self, shard: Shard) -> Decoded:
        """
        Decode the chunks of a shard, and wait for all of them.

        Raises:
            MachineError: one failed for good, for a reason that is not its video's.
        """
        chunks = [chunk for chunk in shard.chunks if chunk.index is not None]
        if not chunks:
            return Decoded(shard, (), None)
        block = self.blocks.acquire(sum(aligned(math.prod(self._shape(s))) for s in chunks))
        jobs = [partial(self._decode, chunk=chunk, block=block) for chunk in chunks]
        futures = [self._pool.submit(job) for job in jobs]
        try:
            return Decoded(shard, tuple(future.result() for future in futures), block)
        except BaseException:
            wait(futures)  # so that another attempt does not stand in line behind this one
            raise

    def _shape(self, chunk: Chunk) -> tuple[int, int, int, int]:
        """Tell the shape of the pictures of a chunk as they wait for the engine."""
        return num_images(chunk), *staged_size(self._engine, self._size(chunk)), 3

    def _size(self, chunk: Chunk) -> tuple[int, int]:
        """Tell the size in which the frames of a chunk are decoded."""
        assert chunk.index is not None
        geometry = self._engine.backbone.geometry
        return decoded_size(chunk.index.height, chunk.index.width, geometry)

    def _decode(self, process: DecodeProcess, chunk: Chunk, block: BufferBlock) -> FrameBatch:
        at_once = preprocesses_on_arrival(self._engine, self._size(chunk))
        fit = partial(preprocess_decoded, self._engine) if at_once else None
        buffer = FrameBuffer(block.allocate(self._shape(chunk)), fit)
        geometry = self._engine.backbone.geometry
        return decode_chunk(process, chunk, self._sampling, geometry, buffer)

    def release(self, decoded: Decoded) -> None:
        """Give the memory of a shard to the next one; nobody looks at its pictures any more."""
        if decoded.block is not None:
            self.blocks.release(decoded.block)

    def close(self) -> None:
        """Give back the memory that nobody uses."""
        self.blocks.close()
