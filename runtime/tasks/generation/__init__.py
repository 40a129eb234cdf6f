"""Generate text token by token: searches and drawing over a decoder, and text in pieces as it is written."""
