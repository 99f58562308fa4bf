"""Fit physics to measurements: shares, floors and host costs to many, and one deployment to one run of it."""
