"""The table of routes, and the documents of it for programs (`/openapi.json`) and people (`/docs`)."""
