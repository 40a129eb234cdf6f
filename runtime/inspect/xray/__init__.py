"""The X-ray of a plan, that is, its kernels, traffic and predicted times read from its bytes; as text, page or JSON."""
