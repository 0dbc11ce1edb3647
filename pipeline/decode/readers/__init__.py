"""Readers: one file for each decoding library, all with the same interface."""
