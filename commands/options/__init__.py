"""Arguments and options that several commands take, and the types of their values."""
