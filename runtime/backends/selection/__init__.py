"""Select the backend of `auto` for a graph: measure installed ones on sample inputs and store the decision."""
