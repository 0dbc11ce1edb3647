"""The results of the newest run in a folder, as the server shows them: read once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.browse.media import ClipPart
from pipeline.errors import SourceError
from pipeline.records import Video
from pipeline.results.report import COLUMNS, Contents, render_report
from pipeline.results.tables import load_table, read_run
from pipeline.sources.image_sequence import is_image_sequence

MAX_SIMILAR = 12


class ResultsView:
    """
    Clips and videos by their row, in the order of the tables.

    Raises:
        SourceError: the folder has no results.
        DamagedFileError: a file of a table is truncated or corrupted.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.run = read_run(out)
        if "configuration" not in self.run:
            raise SourceError(f"{out} holds no results: no run.json")
        self._config_id = self.run["config_id"]
        self.labels: list[str] = self.run["configuration"]["labels"]
        tables = {name: self._load(name, columns) for name, columns in COLUMNS.items()}
        self._videos = self._load("videos", ("path", "video_id", "size_bytes", "frame_rate"))
        clips = tables["clips"]
        keys = zip(
            *(tables["videos"][name].to_pylist() for name in ("video", "video_id")), strict=True
        )
        index = {key: number for number, key in enumerate(keys)}
        of_clips = zip(*(clips[name].to_pylist() for name in ("video", "video_id")), strict=True)
        self._video_of_clip = np.array([index[key] for key in of_clips], np.int64)
        self._start = clips["start_seconds"].to_numpy()
        self._end = clips["end_seconds"].to_numpy()
        self._contents = Contents(self.labels, max_rows=None)
        self._contents.add(tables)
        self._embeddings: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def _load(self, table: str, columns: tuple[str, ...]) -> pa.Table:
        return load_table(self.out, table, self._config_id, columns)

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self._start)

    @property
    def num_videos(self) -> int:
        """Number of rows of the table `videos`."""
        return len(self._videos)

    def page(self) -> str:
        """Render the page, which asks the server for images and videos."""
        return render_report(self.out.name, self.run, self._contents, served=True)

    def clip(self, row: int) -> ClipPart:
        """Return a clip by its row."""
        return ClipPart(
            int(self._video_of_clip[row]), float(self._start[row]), float(self._end[row])
        )

    def video(self, row: int) -> Video:
        """Return the source of a video by its row."""
        path, video_id, size, rate = (
            self._videos[name][row].as_py()
            for name in ("path", "video_id", "size_bytes", "frame_rate")
        )
        if is_image_sequence(path):
            return Video(path, path, "images", video_id, size or 0, image_fps=rate)
        return Video(path, path, "file", video_id, size or 0)

    def scores(self, row: int) -> dict[str, float]:
        """Return the score of every label for a clip."""
        found = self._row("scores", row) or []
        return dict(zip(self.labels, found, strict=False))

    def similar(self, row: int) -> list[int] | None:
        """Return the clips with the most similar embeddings, best first; None without them."""
        embeddings = self._read_embeddings()
        if not embeddings.shape[1]:
            return None
        similarity = embeddings @ embeddings[row]
        similarity[row] = -np.inf
        best = np.argsort(-similarity, kind="stable")[:MAX_SIMILAR]
        return [int(other) for other in best if np.isfinite(similarity[other])]

    def _row(self, column: str, row: int) -> Any:
        with self._lock:
            if not hasattr(self, "_clips"):
                self._clips = self._load("clips", ("scores",))
        return self._clips[column][row].as_py()

    def _read_embeddings(self) -> NDArray[np.float32]:
        """Return unit vectors (n, H); H is 0 if the run stored no embeddings."""
        with self._lock:
            if self._embeddings is None:
                column = self._load("clips", ("embedding",))["embedding"].combine_chunks()
                if not len(column) or column.null_count:
                    self._embeddings = np.zeros((len(column), 0), np.float32)
                else:
                    vectors = column.flatten().to_numpy().reshape(len(column), -1)
                    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                    self._embeddings = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
            return self._embeddings
