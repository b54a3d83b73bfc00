"""What a trial has shown so far: outcomes of the pages, service figures, and intervals that allow peeking."""
