"""The HTML report of a training run: plain JSON in, one self-contained file out."""
