"""Fewer tokens for the same choice: speculative rejection, optimal stopping, and what they save."""
