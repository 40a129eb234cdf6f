"""What the server lets people see: one record of figures, and its views as metrics, page, statistics and log."""
