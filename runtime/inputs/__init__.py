"""What a folder, a table, an archive or a file given to any command holds: pictures, their captions and classes."""
