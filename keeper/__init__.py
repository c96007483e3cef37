"""Looks after Triton from beside it: heals models whose process died or hangs, changes groups at run time. No torch."""
