"""The reference model in torch with the official names, and the tables of its graphs and model families."""
