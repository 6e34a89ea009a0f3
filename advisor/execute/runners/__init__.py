"""Scripts that run inside a managed environment, never inside advisor; see ``protocol``."""
