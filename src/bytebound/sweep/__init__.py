"""Sweeps: fleets, months, plans and draws in parts, on local processes or Ray, written to Parquet as they finish."""
