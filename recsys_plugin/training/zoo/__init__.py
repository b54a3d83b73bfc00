"""The CTR zoo: one feature frame, one interface, one set of metrics, logistic regression to multi-task networks."""
