"""The verbs of the command line, one dataclass each."""
