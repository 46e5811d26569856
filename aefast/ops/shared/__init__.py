"""What the ops share: argument checks, dispatch, registration, each language's device functions."""
