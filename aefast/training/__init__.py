"""Training as ``aefast train`` does it: runs that stop, go on to the same bits, and are kept."""
