"""The clients: they hold the data, and share updates behind their defenses."""
