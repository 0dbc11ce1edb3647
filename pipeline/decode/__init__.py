"""
From files to sampled frames, in processes that can be killed.

Nothing here imports torch. Outside, only `sources` uses a decoding library: OpenCV reads images.
"""
