"""Find videos and image sequences, and identify them by their content."""
