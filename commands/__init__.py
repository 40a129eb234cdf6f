"""The commands of `internvl-edge`, each in a file of its own: it parses, calls one function, and prints."""
