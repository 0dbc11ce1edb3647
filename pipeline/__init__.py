"""Clipline's work: plain Python from videos to rows in Parquet, without Prefect."""
