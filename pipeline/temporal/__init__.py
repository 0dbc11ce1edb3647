"""From features of frames, (N, L, D), to labels of clips and frames."""
