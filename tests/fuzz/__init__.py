"""Random calls and mutated files: ``make fuzz``."""
