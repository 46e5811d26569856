"""Training runs as ``aefast train`` does them: checkpointed, and resumed to the same bits."""
