"""The commands of `internvl-edge`, one file per room of the flow: each parses, calls one function, prints."""
