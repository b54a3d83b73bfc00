"""The steps from canonical tables to served models, each safe to repeat and to interrupt."""
