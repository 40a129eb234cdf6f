"""Inspection of bundles, plans and this machine, which needs NumPy alone."""
