"""The code that ships to the device. Importing it needs NumPy alone; a backend imports its library when it opens."""

from internvl_edge.runtime.model import InternVL

__all__ = ["InternVL"]
