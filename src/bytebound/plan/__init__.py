"""Levers: what can be changed about a deployment, one pure function each."""
