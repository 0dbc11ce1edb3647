"""
Result tables in Parquet, their schemas, and the HTML report.

    from pipeline.results import load

    clips = load("OUT")  # a pandas.DataFrame, one row a clip
"""

from pipeline.results.tables import load, read_run

__all__ = ["load", "read_run"]
