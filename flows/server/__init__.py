"""The Prefect API server that a command embeds, and running flows with it."""
