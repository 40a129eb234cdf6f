"""What the server answers, for programs (`/openapi.json`) and people (`/docs`)."""
