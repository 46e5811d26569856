"""The figures take what the package itself does without."""

import importlib.util

missing = [name for name in ("sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing else []
