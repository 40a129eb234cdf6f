"""Look into bundles, plans and this machine with NumPy alone."""
