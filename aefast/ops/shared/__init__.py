"""What the ops share: the contract at their doors and the device functions of each language."""
