"""What a model is: references, bounded header readers, architecture facts. Reads headers and JSON, never weights."""
