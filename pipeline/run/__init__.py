"""One run: plan shards, decode, encode, recognize, write, and resume what was interrupted."""
