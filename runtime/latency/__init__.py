"""How long graphs and requests take: measured, summed up, and reported."""
