"""Speed of this machine: decoding alone, engines alone, and whole runs."""
