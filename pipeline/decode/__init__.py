"""
From files to sampled frames, in processes that can be killed.

Nothing here imports torch, and nothing outside imports a decoding library.
"""
