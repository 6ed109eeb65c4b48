"""Publishing models: proof that a saved folder works without this package."""
