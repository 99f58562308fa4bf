"""Proofs: a lever applied to a real model on a real engine here, before and after, beside the prediction."""
