"""Read the folders, tables, archives and files given to a command: pictures with their captions and classes, texts."""
