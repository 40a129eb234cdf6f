"""Arguments and options that several commands take, types of their values, and headings in --help."""
