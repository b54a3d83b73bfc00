"""Models trained on point-in-time frames: text vectors, the two-tower, the CTR ranker, and their honest evaluation."""
