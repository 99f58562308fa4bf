"""Probes that find the ceilings of the machine in hand, robust on noisy machines."""
