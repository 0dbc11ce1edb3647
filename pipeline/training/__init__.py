"""From a table of labels to a saved recognizer."""
