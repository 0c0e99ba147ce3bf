"""Python imports this at its start where its folder is on PYTHONPATH, and so in every process that a test starts."""

import quick_imports  # noqa: F401
import standin_hook  # noqa: F401
