"""Measurements, observations and calibrations kept over time, in one SQLite file or any SQLAlchemy database."""
