"""A small HTTP service around one network: predictions, and a page that shows each block's scores for an image.

Raises:
    ValueError: on import, where a package is missing.
"""

from importlib.util import find_spec

if missing := [name for name in ("fastapi", "PIL", "python_multipart", "uvicorn") if find_spec(name) is None]:
    raise ValueError(f"The service needs more packages ({', '.join(missing)}): pip install 'forward-only[serve]'.")

from forwardonly.serve.app import Limits, make_app

__all__ = ["Limits", "make_app"]
