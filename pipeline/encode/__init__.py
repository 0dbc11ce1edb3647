"""From sampled frames to one row of features a frame."""
