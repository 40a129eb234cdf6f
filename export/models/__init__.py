"""The reference model in torch with the official names, written for export: every forward is one graph's forward."""
