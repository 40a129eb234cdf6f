"""What ships to the device. Importing it needs NumPy alone; each library loads with the backend that uses it."""

from internvl_edge.runtime.model import InternVL

__all__ = ["InternVL"]
