"""Files, folders and archives: their names, formats and first bytes."""
