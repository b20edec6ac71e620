"""What makes a folder when it is unpickled, to show that nothing unpickles it."""

import os
from pathlib import Path
from typing import Any


class Planted:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)
