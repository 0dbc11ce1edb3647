"""Saved recognizers, and what they predict: windows, clips, frames, segments."""
