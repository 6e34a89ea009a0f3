"""Finds out what the machine is and what it grants; records and replays machines; knows devices by name."""
