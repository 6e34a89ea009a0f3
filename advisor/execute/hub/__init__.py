"""Models of the hub: found by id, read by their headers first, fetched file by file with every byte checked."""
