"""The command, and the one adapter around Flower's simulation engine."""
