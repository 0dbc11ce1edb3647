"""Evaluation of recognizers: cross-validation, baselines, metrics, tables and a report."""
