"""Recognizers that ship with Clipline, and the scripts that made them."""
