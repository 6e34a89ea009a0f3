"""What a way to run a model costs: memory, speed, quality, time and disk; every number with method and source."""
