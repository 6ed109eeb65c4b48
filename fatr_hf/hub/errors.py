"""What goes wrong with a saved folder, as an error of its own."""


class ProofError(RuntimeError):
    """A saved folder does not load or run on its own, or gives other answers than the model that was saved."""
