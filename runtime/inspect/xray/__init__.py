"""Show what the bytes of a plan tell: as text, JSON, a page, or compared with another plan."""
