"""Decode shards: the frames of all their chunks in one block of memory, resized if possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial

from pipeline.config import Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.fallback import decode_chunk, num_images
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.shared_memory import (
    BufferBlock,
    BufferPool,
    FrameBuffer,
    aligned,
    discard_buffer,
)
from pipeline.encode.engine import Engine
from pipeline.encode.preprocess import preprocess_decoded, preprocesses_on_arrival, staged_size
from pipeline.records import Chunk, FrameBatch, Shard


@dataclass(frozen=True)
class Decoded:
    """The frames of a shard, and the memory that holds them."""

    shard: Shard
    batches: tuple[FrameBatch, ...]
    block: BufferBlock | None


class ShardDecoder:
    """
    Decodes shards, each chunk in a decode process, and owns the memory of their frames.

    Args:
        pool: the decode processes.
        engine: frames are resized to its input size.
        sampling: which frames.
        shots: whether shots are looked for.
        keep: number of shards whose memory is kept for reuse.
    """

    def __init__(
        self, pool: DecodePool, engine: Engine, sampling: Sampling, keep: int, *, shots: bool = True
    ) -> None:
        self._pool, self._engine, self._sampling, self._shots = pool, engine, sampling, shots
        self.blocks = BufferPool(keep)

    def decode(self, shard: Shard) -> Decoded:
        """
        Decode the chunks of a shard, and wait for all of them.

        Raises:
            MachineError: a chunk could not be decoded, and its file is not the reason.
        """
        chunks = [chunk for chunk in shard.chunks if chunk.index is not None]
        if not chunks:
            return Decoded(shard, (), None)
        if shard.shots_only:
            return Decoded(shard, self._run(self._find_shots, chunks), None)
        block = self.blocks.acquire(sum(aligned(math.prod(self._shape(s))) for s in chunks))
        return Decoded(shard, self._run(partial(self._decode, block=block), chunks), block)

    def _run(
        self, decode: Callable[[DecodeProcess, Chunk], FrameBatch], chunks: Sequence[Chunk]
    ) -> tuple[FrameBatch, ...]:
        def job(chunk: Chunk) -> Callable[[DecodeProcess], FrameBatch]:
            return lambda process: decode(process, chunk)

        futures = [self._pool.submit(job(chunk)) for chunk in chunks]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            wait(futures)  # a retry would queue behind them, and they write to the block
            raise

    def _shape(self, chunk: Chunk) -> tuple[int, int, int, int]:
        """Return the shape of the frames of a chunk as they wait for the engine, (T, H, W, 3)."""
        return num_images(chunk), *staged_size(self._engine, self._size(chunk)), 3

    def _size(self, chunk: Chunk) -> tuple[int, int]:
        """Return height and width in which the frames of a chunk are decoded."""
        assert chunk.index is not None
        geometry = self._engine.backbone.geometry
        return decoded_size(chunk.index.height, chunk.index.width, geometry)

    def _decode(self, process: DecodeProcess, chunk: Chunk, *, block: BufferBlock) -> FrameBatch:
        on_arrival = preprocesses_on_arrival(self._engine, self._size(chunk))
        preprocess = partial(preprocess_decoded, self._engine) if on_arrival else None
        buffer = FrameBuffer(block.allocate(self._shape(chunk)), preprocess)
        geometry = self._engine.backbone.geometry
        return decode_chunk(process, chunk, self._sampling, geometry, buffer, shots=self._shots)

    def _find_shots(self, process: DecodeProcess, chunk: Chunk) -> FrameBatch:
        """Decode a chunk for its shots alone; its images are discarded."""
        geometry, buffer = self._engine.backbone.geometry, discard_buffer()
        return decode_chunk(process, chunk, self._sampling, geometry, buffer, shots=True)

    def release(self, decoded: Decoded) -> None:
        """Make the memory of a shard available to the next one; its frames become invalid."""
        if decoded.block is not None:
            self.blocks.release(decoded.block)

    def close(self) -> None:
        """Free the memory that is not in use."""
        self.blocks.close()
