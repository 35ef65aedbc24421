"""Cycles of compiled kernels that are never run: how often each loop runs, and what its instructions cost."""
