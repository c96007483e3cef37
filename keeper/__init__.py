"""Looks after Triton from beside it: heals models whose process died or hangs. Knows neither HTTP clients nor torch."""
