"""Turn the records and scores of a run into one self-contained page and its figures."""
