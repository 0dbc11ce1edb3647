"""Training of recognizers: from a table of labels to a saved recognizer."""
