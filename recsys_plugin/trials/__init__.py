"""Trying a model version on live traffic: who gets it, what is counted, and when it is taken back by itself."""
