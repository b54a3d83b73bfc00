"""How events become features: pure functions over sorted arrays, the one definition for history and for live updates."""
