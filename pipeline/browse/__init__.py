"""Results in a browser: a local server that shows clips, plays them, and finds similar ones."""
