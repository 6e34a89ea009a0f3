"""Carries plans out: steps, the artifact store, managed environments, fetching, quantizing, proving the result."""
