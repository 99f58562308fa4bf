"""Predictions beside public measurements: protocols, groups, coverage, the worst rows, and what contradicts physics."""
