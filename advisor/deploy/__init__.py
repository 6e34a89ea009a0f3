"""Supervised model servers: launching, observing, stopping, measuring. Nothing here decides what to run."""
