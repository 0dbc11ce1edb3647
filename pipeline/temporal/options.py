"""
Options of temporal models and of their training.

This module imports no torch: the command line reads options and defaults from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config import (
    OMIT_DEFAULT,
    Device,
    require_in_range,
    require_one_of,
    require_positive,
)
from pipeline.errors import OptionError

CellName = Literal[
    "mean",
    "rnn_tanh",
    "rnn_relu",
    "rnn_leaky_relu",
    "lstm",
    "gru",
    "mingru",
    "transformer",
    "gru_transformer",
    "tcn",
]
Pooling = Literal["mean", "last", "attention"]
TrainingPrecision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class TemporalOptions:
    """The architecture of a temporal model. It is saved with the weights of the model."""

    cell: CellName = "gru"
    """Cell of the recurrent model, a Transformer, dilated convolutions (tcn), or the mean of the
    frames."""
    layers: int = 1
    """Number of layers; layer i of a tcn has the dilation 2^i."""
    size: int = 128
    """Size of the hidden state; per direction if the model is bidirectional."""
    bidirectional: bool = False
    """Also read clips backwards; such a model cannot stream."""
    causal: bool = False
    """Whether a transformer attends to past frames only."""
    heads: int = 4
    """Attention heads of a transformer."""
    pooling: Pooling = "mean"
    """How the hidden states of the frames of a clip are reduced to one vector."""
    differences: bool = False
    """Append to the features of each frame their difference to the previous frame."""
    rectified: bool = False
    """Split differences by sign into two non-negative parts, and scale all inputs by their standard
    deviation between clips; needs differences."""
    motion_grid: int = field(default=0, metadata=OMIT_DEFAULT)
    """Side of the grid of features, in cells, over which the mean is subtracted from the difference
    of each channel: it is what changes everywhere, as when the camera moves. 0 disables it; needs
    differences."""
    signed_root: bool = False
    """Take the signed square root of the features first (power normalization), which reduces the
    influence of a few large ones."""
    dropout: float = 0.0
    """Dropout probability, in [0, 1)."""
    layer_norm: bool = True
    """Normalize hidden states (layer normalization); hides how much moves."""
    residual: bool = True
    """Add residual connections to layers after the first."""
    refine: int = field(default=0, metadata=OMIT_DEFAULT)
    """Stages of dilated convolutions that each read the probabilities of the stage before and
    predict the labels of the frames again."""
    refine_layers: int = field(default=8, metadata=OMIT_DEFAULT)
    """Layers of each of these stages; layer i has the dilation 2^i."""
    refine_size: int = field(default=48, metadata=OMIT_DEFAULT)
    """Channels of these stages."""
    stride: int = field(default=1, metadata=OMIT_DEFAULT)
    """Frames that are averaged to one step of the model."""
    multi_label: bool = field(default=False, metadata=OMIT_DEFAULT)
    """Whether labels are independent of each other: probabilities are sigmoids of the logits."""

    def __post_init__(self) -> None:
        require_one_of(CellName, cell=self.cell)
        require_one_of(Pooling, pooling=self.pooling)
        require_positive(layers=self.layers, size=self.size, heads=self.heads)
        require_positive(
            stride=self.stride, refine_layers=self.refine_layers, refine_size=self.refine_size
        )
        require_in_range(0, math.inf, refine=self.refine)
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.rectified and not self.differences:
            raise OptionError("rectified needs differences: set differences as well")
        if self.motion_grid and not self.differences:
            raise OptionError("motion_grid needs differences: set differences as well")
        if "transformer" in self.cell and self.size % self.heads:
            raise OptionError(f"size {self.size} is not a multiple of heads {self.heads}")
        if self.bidirectional and self.cell in ("mean", "transformer"):
            raise OptionError(f"a {self.cell} model cannot be bidirectional")

    @property
    def looks_ahead(self) -> bool:
        """Whether the labels of a frame depend on later frames."""
        return self.bidirectional or ("transformer" in self.cell and not self.causal)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a temporal model is trained. Not needed to run the model."""

    epochs: int = 30
    """Maximum epochs."""
    batch_size: int = 16
    """Clips per batch."""
    learning_rate: float = 2e-3
    """Peak learning rate: reached after a linear warm-up, then decayed to 0 (cosine)."""
    warm_up: float = 0.1
    """Share of all steps in which the learning rate grows from 0."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of weight matrices (AdamW)."""
    l1: float = 0.0
    """Weight in the loss of the L1 norm of the weight matrices."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy, in [0, 1)."""
    balanced: bool = True
    """Weight classes by their inverse frequency."""
    frame_weight: float = 0.0
    """Weight in the loss of the cross-entropy of single frames, beside that of the clip."""
    clip_norm: float = 1.0
    """Maximum norm of the gradient; larger gradients are scaled down to it."""
    unroll: int = 512
    """Steps of truncated backpropagation through time; longer clips are split into chunks."""
    shortest_crop: float = 1.0
    """Clips are cropped in time to a random part of at least this share; 1 disables cropping."""
    drop_frames: float = 0.0
    """Probability with which each frame is masked in a training step."""
    mirror_grid: int = 0
    """Side of the grid of features, in cells, whose columns are reversed for a random half of the
    clips in each step, as for a horizontal flip of the frames; 0 disables it. Use it only if no
    label depends on left and right."""
    validation: float = 0.2
    """Share of groups in the validation set, for early stopping and calibration; 0 for none."""
    patience: int = 20
    """Epochs without a lower validation loss after which training stops."""
    refit: bool = True
    """Then train on all clips, including the validation set, for the best number of epochs."""
    seed: int = 0
    """Random seed."""
    device: Device = "auto"
    """Where networks are trained; auto is CUDA where available, else the CPU."""
    precision: TrainingPrecision = "auto"
    """Precision of the convolutions in fine-tuning: `auto` is bfloat16 on GPUs that support it,
    else float32. Temporal models are trained in float32."""
    smoothing: float = field(default=0.0, metadata=OMIT_DEFAULT)
    """Weight in the loss of the squared differences between the log-probabilities of neighbouring
    frames; only where every frame has a label."""
    stretch: float = field(default=1.0, metadata=OMIT_DEFAULT)
    """Greatest random factor by which sequences are stretched or compressed in time; 1 disables it;
    only where every frame has a label."""
    mix: float = field(default=0.0, metadata=OMIT_DEFAULT)
    """Greatest random share of the features of another sequence that is mixed into a sequence,
    whose labels stay; in [0, 1); only where every frame has a label."""
    steps_per_second: float = field(default=0.0, metadata=OMIT_DEFAULT)
    """Frames are averaged to about this many steps of the model a second; 0 keeps its stride; only
    where every frame has a label."""

    def __post_init__(self) -> None:
        require_positive(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            unroll=self.unroll,
            patience=self.patience,
            shortest_crop=self.shortest_crop,
        )
        require_one_of(Device, device=self.device)
        require_one_of(TrainingPrecision, precision=self.precision)
        require_in_range(0, math.inf, weight_decay=self.weight_decay, l1=self.l1, seed=self.seed)
        require_in_range(0, math.inf, frame_weight=self.frame_weight, mirror_grid=self.mirror_grid)
        require_in_range(0, math.inf, smoothing=self.smoothing)
        require_in_range(0, math.inf, steps_per_second=self.steps_per_second)
        require_in_range(1, math.inf, stretch=self.stretch)
        require_in_range(0, 1, warm_up=self.warm_up, shortest_crop=self.shortest_crop)
        for name in ("label_smoothing", "drop_frames", "validation", "mix"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), got {getattr(self, name)}")
