"""How events become features: pure functions over sorted arrays, one definition for history and for live updates."""
