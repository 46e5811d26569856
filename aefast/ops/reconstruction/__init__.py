"""The reconstruction loss: contract to follow."""
