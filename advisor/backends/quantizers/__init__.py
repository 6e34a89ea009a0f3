"""One file a quantizer."""
