"""When, how often, and how many at once: Prefect flows, deployments, and the command line."""
