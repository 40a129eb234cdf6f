"""How long each layer of a graph takes, as each backend tells it."""
