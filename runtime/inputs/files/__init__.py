"""Files, folders and archives before it is known what is in them: names, formats, contents."""
