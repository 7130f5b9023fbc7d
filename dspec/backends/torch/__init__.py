"""The torch backend: targets held by transformers, drafters and caches of our own."""
