"""What a person may ask for: to be forgotten, to see what is held of him, not to be profiled."""
