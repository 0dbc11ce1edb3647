"""Fine-tune the last blocks of a backbone together with the temporal model that reads it."""
