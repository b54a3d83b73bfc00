"""Breaking servers on purpose, under load, and what callers see of it; never imported by a serving client."""
