"""Ratios of speed and quality, each measured in one run beside what it is compared with."""
