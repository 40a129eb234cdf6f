"""Calls one after the other or side by side, their times, and what these come to."""
