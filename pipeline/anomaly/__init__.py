"""Novelty: how far features of frames and clips lie from those of normal videos."""
